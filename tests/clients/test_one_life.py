"""One process of a broker after another, and two at once: new topics outlive a kill, and only one process appends."""

import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest

import wire
from cluster import wait_until
from test_process import broker_command, spare_port, unmounted
from wire import Connection, batch

NONE, NOT_LEADER = 0, 6
KILLS = int(os.environ.get("MILLRACE_KILLS", "4"))
TOPICS_EACH = 4

# A session of the default length, and time for the takeover on a machine that is busy.
TAKEOVER_SECONDS_MAX = 30


def create(place, topic, partitions=1):
    with Connection(place) as connection:
        answer = connection.exchange(wire.create_topic_request(topic, partitions))
        assert (answer.take("i"), answer.take("i"), answer.string()) == (0, 1, topic)
        return answer.take("h")


def produce(place, topic, value, partition=0):
    with Connection(place) as connection:
        return connection.produce(topic, batch([value]), partition)


def end_offset(place, topic, partition=0):
    """The end, or None as long as nobody serves it."""
    try:
        with Connection(place) as connection:
            answer = connection.exchange(wire.list_offsets_request(topic, partition))
            assert (answer.take("i"), answer.string(), answer.take("i"), answer.take("i")) == (1, topic, 1, partition)
            error, _, offset = answer.take("h"), answer.take("q"), answer.take("q")
            return offset if error == NONE else None
    except OSError:
        return None


@pytest.mark.timeout(120 + 15 * KILLS)
def test_new_topics_outlive_a_kill_within_a_second(cluster):
    chance = random.Random(KILLS)
    everything = []
    for number in range(KILLS):
        topics = [f"new-{number}-{which}" for which in range(TOPICS_EACH)]
        for topic in topics:
            assert create(cluster, topic) == NONE
            assert produce(cluster, topic, b"kept") == (NONE, 0), "a topic that was created is served at once"
        time.sleep(chance.uniform(0, 1))
        cluster.kill("broker")
        cluster.start("broker")
        cluster.wait_ready()
        everything += topics
        for topic in topics:
            assert wait_until(lambda: end_offset(cluster, topic), f"{topic} to be served") == 1
    lost = [topic for topic in everything if end_offset(cluster, topic) != 1]
    assert not lost
    assert not list((cluster.data / "broker-1").glob("stray/*")), "nothing that exists was set aside"
    print(f"{KILLS} kills, {len(everything)} topics")


def test_whatever_else_lies_in_the_data_directory_is_left_alone(cluster, topic):
    assert create(cluster, topic) == NONE
    assert produce(cluster, topic, b"one") == (NONE, 0)
    root = cluster.data / "broker-1"
    # As the root of a volume has it, and as administrators leave it; what a repair of the volume found again may have any name.
    others = [root / "lost+found", root / "topics" / ".Trash-1000", root / "topics" / "lost+found"]
    found = others[-1] / "0"
    file = root / "topics" / "README"
    cluster.kill("broker")
    try:
        for other in [*others, found]:
            other.mkdir()
        others[0].chmod(0)
        others[1].chmod(0)
        file.write_text("mind the gap")
        cluster.start("broker")
        cluster.wait_ready()
        assert wait_until(lambda: end_offset(cluster, topic), "the topic to be served") == 1
        assert create(cluster, f"{topic}-new") == NONE
        assert all(path.exists() for path in [*others, found, file])
    finally:
        for other in [found, *others]:
            other.rmdir()
        file.unlink()


@pytest.fixture
def twin(cluster, topic, tmp_path):
    """A second process of broker 1 on a copy of its files, started by the test."""
    place = SimpleNamespace(port=spare_port(cluster), process=None, log=tmp_path / "twin.log")

    def start():
        shutil.copytree(cluster.data / "broker-1", tmp_path / "copy")
        command = broker_command(cluster, tmp_path / "copy", listen=f"127.0.0.1:{place.port}", number=1)
        place.process = subprocess.Popen(list(map(str, command)), stderr=place.log.open("w"))

    place.start = start
    yield place
    place.process.kill()
    place.process.wait()


def produced(place, topic, value):
    """The answer of a process that may still be starting."""
    try:
        return produce(place, topic, value)
    except OSError:
        return None


def stored_image_knows(cluster, topic):
    return topic.encode() in (cluster.data / "broker-1" / "metadata.image").read_bytes()


def test_a_second_process_on_copied_files_is_refused_and_ends(cluster, topic, twin):
    assert create(cluster, topic) == NONE
    assert produce(cluster, topic, b"one") == (NONE, 0)
    wait_until(lambda: stored_image_knows(cluster, topic), "the image to be stored")
    twin.start()
    wait_until(lambda: produced(twin, topic, b"twin"), "an answer of the twin")
    ends = 1
    while twin.process.poll() is None:
        answer = produced(twin, topic, b"twin")
        assert answer is None or answer[0] == NOT_LEADER
        assert produce(cluster, topic, b"own") == (NONE, ends)
        ends += 1
        time.sleep(0.2)
    assert twin.process.returncode != 0
    lines = [line for line in twin.log.read_text().splitlines() if line.startswith("millrace-broker:")]
    assert len(lines) == 1 and "another process" in lines[0], lines
    assert cluster.is_running()


def test_a_process_that_was_stopped_while_another_took_over_appends_no_more(cluster, topic, twin):
    assert create(cluster, topic) == NONE
    assert produce(cluster, topic, b"one") == (NONE, 0)
    wait_until(lambda: stored_image_knows(cluster, topic), "the image to be stored")
    own = cluster.pid()
    os.kill(own, signal.SIGSTOP)
    try:
        twin.start()
        took_over = wait_until(
            lambda: (answer := produced(twin, topic, b"two")) and answer[0] == NONE and answer,
            "the twin to take over", seconds=TAKEOVER_SECONDS_MAX,
        )
        assert took_over == (NONE, 1)
        os.kill(own, signal.SIGCONT)
        # From its first answer on until it has ended.
        while cluster.is_running():
            answer = produced(cluster, topic, b"zombie")
            assert answer is None or answer[0] == NOT_LEADER
        assert produce(twin, topic, b"three") == (NONE, 2)
        log = (cluster.data / "logs" / "broker-1.log").read_text()
        lines = re.findall(r"^millrace-broker: .*taken.*$", log, re.MULTILINE)
        assert len(lines) == 1, log[-2000:]
    finally:
        if cluster.is_running():
            os.kill(own, signal.SIGCONT)
        twin.process.kill()
        twin.process.wait()
        if not cluster.is_running():
            cluster.start("broker")
        cluster.wait_ready()


def test_a_process_that_was_stopped_for_a_while_goes_on(cluster, topic):
    assert create(cluster, topic) == NONE
    for number, seconds in enumerate([0.3, 3]):
        os.kill(cluster.pid(), signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(cluster.pid(), signal.SIGCONT)
        answer = wait_until(
            lambda: (answer := produced(cluster, topic, b"again")) and answer[0] == NONE and answer, "to be led again"
        )
        assert answer == (NONE, number)


def test_the_root_of_a_volume_is_a_data_directory(cluster, tmp_path):
    directory, image = tmp_path / "volume", tmp_path / "volume.img"
    directory.mkdir()
    image.touch()
    os.truncate(image, 96 << 20)
    made = shutil.which("mkfs.ext4") and subprocess.run(["mkfs.ext4", "-q", image], capture_output=True).returncode == 0
    if not made or subprocess.run(["mount", "-o", "loop", image, directory], capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a file system")
    place = SimpleNamespace(port=spare_port(cluster))
    command = broker_command(cluster, directory, listen=f"127.0.0.1:{place.port}", number=5)
    name, names = None, (f"volume-{number}" for number in itertools.count())
    try:
        assert (directory / "lost+found").is_dir()
        for life in range(2):
            process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
            try:
                if life == 0:
                    # Once the new broker is in service, one of two partitions is placed on it.
                    name = wait_until(lambda: create_here(place, next(names)), "a topic of the volume's broker")
                else:
                    wait_until(lambda: led_here(place, name), "a partition of the volume to be served")
            finally:
                # The first life is killed, the last one says goodbye.
                process.send_signal(signal.SIGTERM if life == 1 else signal.SIGKILL)
                process.wait()
        assert (directory / "lost+found").is_dir()
        assert not (directory / "stray").exists()
    finally:
        wait_until(lambda: unmounted(directory), f"{directory} to be unmounted")


def create_here(place, topic):
    """The topic, if this broker got a partition of it."""
    try:
        return create(place, topic, 2) == NONE and led_here(place, topic) and topic
    except OSError:
        return None


def led_here(place, topic):
    return any(end_offset(place, topic, partition) is not None for partition in range(2))
