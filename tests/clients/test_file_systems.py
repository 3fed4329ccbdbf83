"""A broker's data on other file systems than the one that everybody has: each works, and what was acknowledged outlives a SIGKILL."""

import subprocess
from contextlib import ExitStack, contextmanager

import pytest

from cluster import wait_until
from libraries import LIBRARIES, Record, create_topic

IMAGE_BYTES = 400 << 20
RECORDS = 2000

# How each is made on a device, and how much of the device is one sector.
KINDS = {
    "ext3": (["mkfs.ext3", "-q"], 512),
    "ext4 without a journal": (["mkfs.ext4", "-q", "-O", "^has_journal"], 512),
    "xfs in sectors of 4 KiB": (["mkfs.xfs", "-q"], 4096),
    "xfs in sectors of 16 KiB": (["mkfs.xfs", "-q", "-b", "size=16384", "-s", "size=16384"], 16384),
    "btrfs": (["mkfs.btrfs", "-q"], 512),
    "tmpfs": None,
    "overlay": None,
}


def as_root(*command):
    """Whether a command that wants root, and a host that allows it, went well."""
    try:
        return subprocess.run(list(map(str, command)), capture_output=True, timeout=60).returncode == 0
    except FileNotFoundError:
        return False


def mount(stack, kind, place):
    """Mounts a fresh file system until the stack ends, or skips the test."""
    directory = place / "mounted"
    directory.mkdir()
    if kind == "tmpfs":
        mounted = as_root("mount", "-t", "tmpfs", "-o", f"size={IMAGE_BYTES}", "none", directory)
    elif kind == "overlay":
        layers = {name: place / name for name in ("lowerdir", "upperdir", "workdir")}
        for layer in layers.values():
            layer.mkdir()
        options = ",".join(f"{name}={layer}" for name, layer in layers.items())
        mounted = as_root("mount", "-t", "overlay", "overlay", "-o", options, directory)
    else:
        make, sector_bytes = KINDS[kind]
        image = place / "image"
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        attached = subprocess.run(
            ["losetup", "--show", "--find", "--sector-size", str(sector_bytes), image], capture_output=True, text=True)
        if attached.returncode != 0:
            pytest.skip(f"this host has no loop device with sectors of {sector_bytes} bytes for this user")
        device = attached.stdout.strip()
        stack.callback(as_root, "losetup", "--detach", device)
        if not as_root(*make, device):
            pytest.skip(f"{make[0]} is not here, or cannot do this")
        mounted = as_root("mount", device, directory)
    if not mounted:
        pytest.skip(f"this user may not mount {kind}, or this kernel has none")
    # The kernel lets go of a killed process's files a moment after the process is gone.
    stack.callback(wait_until, lambda: as_root("umount", directory), f"{directory} to be unmounted")
    return directory


@contextmanager
def data_on(cluster, other):
    """The broker, which is not running, finds its data on another file system until the end, and runs again afterwards."""
    directory, kept = cluster.data / "broker-1", cluster.data / "broker-1-kept"
    subprocess.run(["cp", "-a", f"{directory}/.", other], check=True)
    directory.rename(kept)
    directory.symlink_to(other)
    try:
        yield
    finally:
        cluster.kill("broker")
        directory.unlink()
        kept.rename(directory)
        cluster.start("broker")
        cluster.wait_ready()


def place_for(cluster, name):
    place = cluster.data / name
    place.mkdir()
    return place


@pytest.fixture
def moved(cluster, request):
    """The broker's data on a file system of the kind that the test asks for."""
    with ExitStack() as stack:
        other = mount(stack, request.param, place_for(cluster, f"other-{request.node.name}"))
        cluster.kill("broker")
        stack.enter_context(data_on(cluster, other))
        cluster.start("broker")
        cluster.wait_ready()
        yield request.param, other


@pytest.mark.parametrize("moved", KINDS, indirect=True, ids=lambda kind: kind.replace(" ", "-"))
def test_what_is_acknowledged_outlives_a_kill_on(cluster, topic, moved):
    kind, directory = moved
    checked = subprocess.run(
        [cluster.binary("millrace-broker"), "check", "--data", directory], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stderr
    assert f"{directory}: " in checked.stdout
    create_topic(cluster.bootstrap, topic)
    records = [Record(b"%d" % number) for number in range(RECORDS)]
    LIBRARIES["confluent-kafka"].produce(cluster.bootstrap, topic, records)
    cluster.restart("broker")
    cluster.wait_ready()
    assert LIBRARIES["kafka-python"].fetch(cluster.bootstrap, topic, RECORDS) == records
    if kind == "btrfs":
        scrubbed = subprocess.run(["btrfs", "scrub", "start", "-B", directory], capture_output=True, text=True, timeout=60)
        assert scrubbed.returncode == 0 and "no errors found" in scrubbed.stdout, scrubbed


def test_a_full_disk_at_the_start_is_said_and_old_records_are_served(cluster, topic):
    create_topic(cluster.bootstrap, topic)
    LIBRARIES["confluent-kafka"].produce(cluster.bootstrap, topic, [Record(b"kept")])
    with ExitStack() as stack:
        other = mount(stack, "tmpfs", place_for(cluster, "full"))
        cluster.kill("broker")
        stack.enter_context(data_on(cluster, other))
        subprocess.run(["dd", "if=/dev/zero", f"of={other}/filler", "bs=1M"], capture_output=True)
        log = cluster.data / "logs" / "broker-1.log"
        said = len(log.read_text())
        cluster.start("broker")
        cluster.wait_ready()
        assert "no room for one block" in log.read_text()[said:]
        assert LIBRARIES["kafka-python"].fetch(cluster.bootstrap, topic, 1) == [Record(b"kept")]
