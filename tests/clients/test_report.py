"""The page that `millrace-bench report` makes, seen by a browser: complete, readable at any width, and without a request to anywhere."""

import base64
import html
import json
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cluster import ROOT

BENCH = Path(os.environ.get("MILLRACE_BIN", ROOT / "target" / "release")) / "millrace-bench"
SECONDS_MAX = 120
PHONE_WIDTH = 400

CHROMIUM = [
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
]

# Frames the page at a width of our choosing and writes what it finds into its own title. The frame has the origin of the page around
# it, so the script may look inside.
HARNESS = """<!doctype html><title>pending</title>
<iframe style="width:{width}px;height:2000px;border:0" srcdoc="{page}"></iframe>
<script>
  document.querySelector("iframe").onload = event => {{
    const inside = event.target.contentDocument;
    const box = shape => {{ const {{width, height}} = shape.getBoundingClientRect(); return [width, height]; }};
    document.title = JSON.stringify({{
      width: inside.documentElement.clientWidth,
      scrollWidth: inside.documentElement.scrollWidth,
      plots: [...inside.querySelectorAll(".plot svg")].map(box),
      text: [...inside.querySelectorAll(".plot svg text")].map(text => text.getBoundingClientRect().height),
      background: getComputedStyle(inside.documentElement.querySelector("body")).backgroundColor,
      ink: getComputedStyle(inside.querySelector(".plot svg text")).fill,
    }});
  }};
</script>"""

HOSTILE = "<script>alert('x')</script> & \"quotes\" <b>bold"


def a_run(command="produce", rate=700.0, slow=1.0, **more):
    """Results as a run writes them, with a latency curve whose tail is `slow` times longer."""
    quantiles = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 1.0]
    curve = [[q, round(0.3 * slow * (1 + 3 * (1 - q + 1e-5) ** -0.25), 4)] for q in quantiles]
    at = dict(map(tuple, curve))
    return {
        "command": command,
        "settings": {"topic": f"t-{rate}", "batch_bytes": "65536", "acks": "All", "connections": "4"},
        "seconds": 5.0, "bytes": int(rate * 5e6), "records": int(rate * 5e3), "requests": int(rate * 76),
        "megabytes_per_second": rate, "requests_per_second": rate * 15.3,
        "records_per_second": rate * 975,
        "latency_ms": {"p50": at[0.5], "p90": at[0.9], "p99": at[0.99], "p999": at[0.999], "p9999": at[0.9999], "max": at[1.0]},
        "latency_curve_ms": curve,
        "server_cpu_seconds_per_gigabyte": 450 / rate, "client_cpu_seconds_per_gigabyte": 300 / rate,
        "server_memory_bytes_max": 180_000_000, "error": None, **more,
    }


def sample_files():
    files = {
        f"{name}-{number}": a_run(command, rate * (1 + 0.08 * (number - 2)), slow)
        for name, command, rate, slow in [
            ("produce-64k-acks1", "produce", 830, 1.0), ("produce-64k-durable", "produce", 520, 2.5),
            ("produce-200b", "produce", 21, 0.4), ("fetch-tail", "consume", 1240, 0.6), ("sink-64k", "sink-load", 905, 0.8),
        ]
        for number in (1, 2, 3)
    }
    files["offsets"] = a_run("offsets", 0.5, 8.0)
    files["hostile"] = a_run("e2e", 640, settings={HOSTILE: HOSTILE}, error=HOSTILE)
    files["ramp"] = {
        "command": "ramp", "steps": [a_run(rate=rate, slow=rate / 200) for rate in (200, 300, 450)],
        "knee_records_per_second": 292_500, "broken_by": "p99 was 31.20 ms, above 20 ms", "error": None,
    }
    files["limits"] = {
        "command": "limits",
        "host": {
            "kernel": "6.12.8", "processor": "AMD EPYC 7B13", "processors": 2, "memory_bytes": 8_200_000_000,
            "file_system": "ext4 on /dev/vda1",
        },
        "figures": [
            {"name": "loopback", "value": 2.9, "unit": "GB/s", "note": "monoio, 64 KiB writes"},
            {"name": "DSYNC write, 4 KiB, depth 1, p99", "value": 0.61, "unit": "ms", "note": "raw ring"},
        ],
    }
    return files


def sample_results():
    against = {"name": "sink, 64 KiB", "value": 905}
    return [
        {"name": "produce, 64 KiB, acks=1", "value": 830, "unit": "MB/s", "against": against, "ratio": 0.917,
         "target": ">= 0.90", "met": True},
        {"name": "broker CPU, 64 KiB", "value": 0.62, "unit": "s/GB", "against": {"name": "sink's CPU", "value": 0.51}, "ratio": 1.22,
         "target": "<= 1.15", "met": False},
        {"name": HOSTILE, "value": None, "unit": "", "against": None, "ratio": None, "target": None, "met": None},
    ]


class Page(HTMLParser):
    """What a test asks of a page's elements."""

    def __init__(self, text):
        super().__init__()
        self.text = text
        self.elements = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The files and the page made from them."""
    folder = tmp_path_factory.mktemp("report")
    runs = folder / "runs"
    runs.mkdir()
    for name, content in sample_files().items():
        (runs / f"{name}.json").write_text(json.dumps(content))
    (folder / "latest.json").write_text(json.dumps(sample_results()))
    page = folder / "page.html"
    done = report("--runs", runs, "--results", folder / "latest.json", "--measured", "a broker of that day", "--out", page)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder


@pytest.fixture(scope="module")
def page(made):
    return Page((made / "page.html").read_text())


def report(*arguments):
    command = [str(BENCH), "report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, stdin=subprocess.DEVNULL)


def browse(tmp_path, address, *flags):
    command = [*CHROMIUM, f"--user-data-dir={tmp_path / 'profile'}", *flags, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done


def measure(made, tmp_path, width, *flags):
    """What a browser makes of the page in a frame of this width."""
    framed = HARNESS.format(width=width, page=html.escape((made / "page.html").read_text()))
    (tmp_path / "harness.html").write_text(framed)
    done = browse(tmp_path, f"file://{tmp_path / 'harness.html'}", "--dump-dom", *flags)
    title = re.search(r"<title>(.*?)</title>", done.stdout).group(1)
    return json.loads(html.unescape(title))


def test_a_browser_has_nothing_to_complain_about(made, tmp_path):
    done = browse(tmp_path, f"file://{made / 'page.html'}", "--dump-dom")
    assert "<h1>Benchmark report</h1>" in done.stdout
    assert "CONSOLE" not in done.stderr, done.stderr


def test_it_asks_for_nothing_and_runs_nothing(page):
    assert page.all("script") == page.all("img") == page.all("iframe") == []
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "src", "xlink:href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "url(" not in page.text and "@import" not in page.text


def test_what_files_say_is_text_and_never_markup(page):
    assert page.all("b") == []
    assert html.escape(HOSTILE) in page.text.replace("&#39;", "'").replace("'", "&#x27;")


def test_every_plot_has_shapes_in_it(page):
    plots = [part.split("</svg>")[0] for part in page.text.split('<div class="plot"')[1:]]
    # Two of throughput, two of processor time, one of latency for each command whose runs ended well.
    assert len(plots) == 2 + 2 + 4
    for plot in plots:
        assert re.search(r'<polyline [^>]*points="\d+,\d+ \d+,\d+|<rect [^>]*width="[1-9]|<circle [^>]*r="[1-9]', plot), plot
        assert "NaN" not in plot and "inf" not in plot


def test_results_and_rounds_are_there(page):
    for text in ["targets: 1 met, 1 missed", "a broker of that day", "✓ met", "✗ missed", "0.917", "≤ 1.15", "AMD EPYC 7B13", "6.12.8", "292,500", "above 20 ms"]:
        assert text in page.text, text
    # Three rounds are one bar.
    assert page.text.count(">\nproduce-64k-acks1\n<") == 4


def test_the_links_hold_the_files(made, page):
    links = {link["download"]: link["href"] for link in page.all("a")}
    def content(name):
        kind, data = links[name].split(",", 1)
        assert kind == "data:application/json;base64"
        return base64.b64decode(data)
    files = [*(made / "runs").iterdir(), made / "latest.json"]
    assert set(links) == {file.name for file in files} | {"all.json"}
    for file in files:
        assert content(file.name) == file.read_bytes()
        assert json.loads(content("all.json"))[file.name] == json.loads(file.read_bytes())


@pytest.mark.parametrize("width", [PHONE_WIDTH, 1200])
def test_it_fits_the_window(made, tmp_path, width):
    found = measure(made, tmp_path, width)
    assert found["width"] <= width
    assert found["scrollWidth"] <= found["width"]
    assert all(width > 300 and height > 80 for width, height in found["plots"])
    assert min(found["text"]) > 10, "text in a plot can be read"


def test_plots_follow_a_dark_page(made, tmp_path):
    light = measure(made, tmp_path, PHONE_WIDTH)
    dark = measure(made, tmp_path, PHONE_WIDTH, "--blink-settings=preferredColorScheme=0")
    for found in ("background", "ink"):
        assert light[found] != dark[found]


def test_what_cannot_be_used_is_named_and_left_out(tmp_path):
    (tmp_path / "good.json").write_text(json.dumps(a_run()))
    (tmp_path / "cut.json").write_text(json.dumps(a_run())[:100])
    (tmp_path / "other.json").write_text('{"version": 3}')
    (tmp_path / "binary.json").write_bytes(b"\xff\x00\xfe")
    (tmp_path / "notes.txt").write_text("not asked for")
    done = report("--runs", tmp_path, "--results", tmp_path / "none.json", "--out", tmp_path / "page.html")
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert len(lines) == 4, lines
    for line, name in zip(lines, ["binary.json", "cut.json", "other.json", "none.json"]):
        assert name in line
    assert Page((tmp_path / "page.html").read_text()).all("svg")
    (tmp_path / "good.json").unlink()
    done = report("--runs", tmp_path, "--out", tmp_path / "other.html")
    assert done.returncode == 1
    assert "no run is left" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "other.html").exists()


def test_a_path_that_is_not_there_is_one_line(tmp_path):
    for arguments in (["--runs", tmp_path / "none", "--out", tmp_path / "x"], ["--runs", tmp_path]):
        done = report(*arguments)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
