"""One real cluster, run by the project's own scripts: started, killed process by process, and looked at from outside."""

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).absolute().parents[2]
SCRIPTS = ROOT / "scripts"

# The first run on a machine also builds.
RUN_SECONDS_MAX = 2400
SCRIPT_SECONDS_MAX = 120


class Cluster:
    """A cluster of its own in a temporary directory, on ports that were free a moment ago."""

    def __init__(self, controllers=3, brokers=1):
        self.data = Path(tempfile.mkdtemp(prefix="millrace-"))
        self.controllers = controllers
        self.brokers = brokers
        self.port = free_port(controllers, brokers)

    @property
    def bootstrap(self):
        return f"127.0.0.1:{self.port}"

    def run(self):
        script(
            "run", "--detach", "--data", self.data, "--port", self.port,
            "--controllers", self.controllers, "--brokers", self.brokers,
            seconds=RUN_SECONDS_MAX,
        )

    def stop(self):
        script("stop", "--data", self.data)

    def kill(self, kind, number=1):
        script("kill", kind, number, "--data", self.data)

    def start(self, kind, number=1):
        script("start", kind, number, "--data", self.data)

    def restart(self, kind, number=1):
        self.kill(kind, number)
        self.start(kind, number)

    def pid(self, kind="broker", number=1):
        return int((self.data / "pids" / f"{kind}-{number}").read_text())

    def is_running(self, kind="broker", number=1):
        return Path(f"/proc/{self.pid(kind, number)}/exe").exists()

    def resident_bytes(self, kind="broker", number=1):
        for line in Path(f"/proc/{self.pid(kind, number)}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("a running process has a resident size")

    def metrics_port(self, kind, number=1):
        return self.port + {"broker": 1000, "controller": 2000}[kind] + number - 1

    def http(self, kind, number, path, seconds=5):
        """The body of a 200 answer, or None."""
        address = f"http://127.0.0.1:{self.metrics_port(kind, number)}{path}"
        try:
            with urllib.request.urlopen(address, timeout=seconds) as answer:
                return answer.read().decode()
        except OSError:
            return None

    def raft_leader(self, group="meta"):
        """The controller that says it leads a Raft group."""
        def find():
            for number in range(1, self.controllers + 1):
                for line in (self.http("controller", number, "/metrics") or "").splitlines():
                    if line.startswith("millrace_raft_leader{") and f'group="{group}"' in line:
                        if float(line.rsplit(" ", 1)[1]) == 1:
                            return number
            return None
        return wait_until(find, "a Raft leader")

    def wait_ready(self, kind="broker", number=1):
        wait_until(lambda: self.http(kind, number, "/readyz") is not None, f"{kind} {number} to be ready")

    def log_tails(self, lines=30):
        for path in sorted((self.data / "logs").glob("*.log")):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            yield f"--- {path.name}\n" + "\n".join(tail)

    def remove(self):
        shutil.rmtree(self.data, ignore_errors=True)

    def binary(self, name):
        """The program that the scripts run."""
        for line in (self.data / "cluster.env").read_text().splitlines():
            if line.startswith("bin="):
                return Path(line.removeprefix("bin=")) / name
        raise AssertionError("the cluster's parameters say where its programs are")


def script(name, *arguments, seconds=SCRIPT_SECONDS_MAX):
    command = [str(SCRIPTS / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def wait_until(condition, what, seconds=60):
    """Asks again and again until the answer is true, and returns it."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(0.05)


def free_port(controllers, brokers):
    """A base port below the ephemeral range, all of whose ports are free."""
    draw = random.Random(os.getpid() ^ time.time_ns())
    for _ in range(200):
        base = draw.randrange(20_000, 28_000)
        ports = [base + i for i in range(brokers)] + [base + 1000 + i for i in range(brokers)]
        ports += [base + 2000 + i for i in range(controllers)] + [base + 3000 + i for i in range(controllers)]
        if all(is_free(port) for port in ports):
            return base
    raise AssertionError("no free range of ports")


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False
