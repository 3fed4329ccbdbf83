"""A rolling upgrade to a later version, back, and on again, while clients go on; and then the cluster's feature level is raised.

The later version is the same program, told to support one feature level more, at which everything that is stored or sent has a
form that the program by itself does not read. So the one build stands for two, and the test needs no second one.
"""

import itertools
import json
import os
import struct
import subprocess
import threading

import confluent_kafka
import pytest

from cluster import wait_until
from libraries import create_topic
from test_crash import PARTITIONS, Load, check_acknowledged_are_there, check_each_once_and_in_order, read_all
from wire import API_VERSIONS, Connection, header, i8, i16, i32

FEATURE = "millrace.version"
UPDATE_FEATURES = 57
INVALID_UPDATE_VERSION = 95

LATER = "MILLRACE_TRY_LATER_LEVEL"
# The newest level of the program by itself, and of the later one.
NOW, NEXT = 2, 3
# Small, so that every controller writes snapshots at either level.
SNAPSHOT_BYTES = "MILLRACE_CONTROLLER_SNAPSHOT_LOG_BYTES"


@pytest.fixture(scope="module", autouse=True)
def small_snapshots():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SNAPSHOT_BYTES, "8192")
        yield


class Metadata:
    """Creates topics and commits offsets in the background until it is stopped, and remembers what was answered."""

    def __init__(self, cluster, topic):
        self.cluster, self.topic = cluster, topic
        self.created, self.committed, self.faults = [], 0, []
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        consumer = confluent_kafka.Consumer({"bootstrap.servers": self.cluster.bootstrap, "group.id": "upgrade"})
        for number in itertools.count():
            if self.stopping.wait(0.2):
                consumer.close()
                return
            try:
                name = f"made-during-upgrade-{number}"
                create_topic(self.cluster.bootstrap, name)
                self.created.append(name)
                place = confluent_kafka.TopicPartition(self.topic, 0, number + 1)
                consumer.commit(offsets=[place], asynchronous=False)
                self.committed = number + 1
            except Exception as fault:
                self.faults.append(fault)

    def wait_for_more(self):
        mark = self.committed + 2
        wait_until(lambda: self.faults or self.committed >= mark, "topics and commits", seconds=120)
        assert not self.faults, self.faults[:3]

    def stop(self):
        self.stopping.set()
        self.thread.join()
        assert not self.faults, self.faults[:3]


def features(cluster, *arguments):
    """What the operator's command says, and its status."""
    controllers = ",".join(f"127.0.0.1:{cluster.port + 3000 + i}" for i in range(cluster.controllers))
    command = [
        cluster.binary("millrace-controller"), "features", "--controllers", controllers,
        "--secret-file", cluster.data / "secret", "--json", *arguments,
    ]
    environment = {**os.environ, LATER: "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def levels(cluster):
    """By process: what it supports, and where the cluster is."""
    described = json.loads(features(cluster).stdout)
    return {row["process"]: (row["supports"], row["finalized"]) for row in described}


def check_refused(cluster, *words):
    done = features(cluster, "--raise", str(NEXT))
    assert done.returncode != 0 and len(done.stderr.splitlines()) == 1, done
    for word in words:
        assert word in done.stderr, done.stderr


def update_features(cluster, feature, level, upgrade_type=1, validate_only=False):
    """UpdateFeatures version 1 of one feature: the error code that it is answered with."""
    compact = bytes([len(feature) + 1]) + feature.encode()
    update = compact + i16(level) + i8(upgrade_type) + b"\0"
    request = header(UPDATE_FEATURES, 1) + b"\0" + i32(30_000) + b"\2" + update + i8(validate_only) + b"\0"
    with Connection(cluster) as connection:
        answer = connection.exchange(request).content
    place = answer.index(compact)
    return struct.unpack_from(">h", answer, place + len(compact))[0]


def api_versions(cluster):
    """The tagged fields of ApiVersions 3: supported range and finalized level of each feature."""
    with Connection(cluster) as connection:
        answer = connection.exchange(header(API_VERSIONS, 3) + b"\0" + b"\2a" + b"\2b" + b"\0").content
    name = bytes([len(FEATURE) + 1]) + FEATURE.encode()
    found = [place for place in range(len(answer)) if answer.startswith(name, place)]
    return [struct.unpack_from(">hh", answer, place + len(name)) for place in found]


def test_an_upgrade_under_load_refuses_nothing_and_can_be_taken_back_until_the_level_is_raised(cluster, topic, monkeypatch):
    create_topic(cluster.bootstrap, topic, partitions=PARTITIONS)
    load, metadata = Load(cluster, topic, idempotent=True), Metadata(cluster, topic)
    everything = [("controller", 1), ("controller", 2), ("controller", 3), ("broker", 1)]

    def restart(processes):
        for kind, number in processes:
            cluster.restart(kind, number)
            cluster.wait_ready(kind, number)
            load.wait_for_more()
            metadata.wait_for_more()

    # While an old program is there the level stays.
    monkeypatch.setenv(LATER, "1")
    restart(everything[:1])
    check_refused(cluster, f"supports feature levels 1 to {NOW}, not {NEXT}")
    restart(everything[1:3])
    check_refused(cluster, f"broker 1 supports feature levels 1 to {NOW}, not {NEXT}")
    restart(everything[3:])
    both = {f"{kind} {number}": (f"1 to {NEXT}", NOW) for kind, number in everything}
    assert levels(cluster) == both
    assert api_versions(cluster) == [(1, NEXT), (NOW, NOW)]

    # Back to the old program, on the same files.
    monkeypatch.delenv(LATER)
    restart([("broker", 1), ("controller", 2)])
    check_refused(cluster, f"supports feature levels 1 to {NOW}, not {NEXT}")
    monkeypatch.setenv(LATER, "1")
    restart([("broker", 1), ("controller", 2)])

    assert update_features(cluster, FEATURE, NEXT + 1) == INVALID_UPDATE_VERSION
    assert update_features(cluster, "metadata.version", NEXT) == INVALID_UPDATE_VERSION
    assert update_features(cluster, FEATURE, NEXT, validate_only=True) == 0
    assert levels(cluster) == both
    assert update_features(cluster, FEATURE, NEXT) == 0
    wait_until(lambda: set(levels(cluster).values()) == {(f"1 to {NEXT}", NEXT)}, "the level everywhere")
    wait_until(lambda: api_versions(cluster) == [(1, NEXT), (NEXT, NEXT)], "the broker to show it")
    lowered = features(cluster, "--raise", str(NOW))
    assert lowered.returncode != 0 and "cannot be lowered" in lowered.stderr, lowered
    assert update_features(cluster, FEATURE, NOW) == INVALID_UPDATE_VERSION
    assert update_features(cluster, FEATURE, NOW, upgrade_type=3) == INVALID_UPDATE_VERSION
    assert features(cluster, "--raise", str(NEXT)).returncode == 0
    # Everything is read again from files of that level.
    restart(everything)
    load.stop()
    metadata.stop()

    found = read_all(cluster, topic)
    check_acknowledged_are_there(load, found)
    check_each_once_and_in_order(load, found)
    consumer = confluent_kafka.Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "upgrade"})
    assert set(metadata.created) <= set(consumer.list_topics(timeout=30).topics)
    committed = consumer.committed([confluent_kafka.TopicPartition(topic, 0)], timeout=30)
    assert committed[0].offset == metadata.committed
    consumer.close()

    for kind in ["controller", "broker"]:
        check_old_program_does_not_start(cluster, kind, monkeypatch)


def check_old_program_does_not_start(cluster, kind, monkeypatch):
    """One line says that the files are of a later version, or at a later level where that is found first."""
    monkeypatch.delenv(LATER)
    cluster.kill(kind)
    log = cluster.data / "logs" / f"{kind}-1.log"
    before = len(log.read_text(errors="replace"))
    with pytest.raises(AssertionError, match="ended while starting"):
        cluster.start(kind)
    said = log.read_text(errors="replace")[before:].splitlines()[-1]
    assert said.startswith(f"millrace-{kind}: ") and ("version 200" in said or f"feature level {NEXT}" in said), said
    monkeypatch.setenv(LATER, "1")
    cluster.start(kind)
    cluster.wait_ready(kind)
