"""A broker that runs out of descriptors or of room: it waits, says so, and takes records again by itself."""

import os
import resource
import socket
import subprocess
import time

import confluent_kafka

from cluster import wait_until
from libraries import LIBRARIES, create_topic
from test_process import broker_command, controller_command, spare_port

VALUE_BYTES = 200_000
SEGMENT_BYTES = 1 << 20
OPEN_FILES = 120
FLOOD = 200


def value(number):
    return b"%d " % number + bytes(VALUE_BYTES)


class Producing:
    """An idempotent producer, and the offsets that it was told."""

    def __init__(self, bootstrap, topic):
        self.producer = confluent_kafka.Producer({
            "bootstrap.servers": bootstrap, "enable.idempotence": True, "message.timeout.ms": 60_000,
            "linger.ms": 0, "batch.num.messages": 1,
        })
        self.topic = topic
        self.sent = 0
        self.offsets = []

    def send(self, count):
        for _ in range(count):
            self.producer.produce(self.topic, value(self.sent), on_delivery=self.delivered)
            self.sent += 1

    def delivered(self, error, message):
        assert error is None, error
        self.offsets.append(message.offset())

    def finish(self, bootstrap, seconds=60):
        assert self.producer.flush(seconds) == 0
        assert self.offsets == list(range(self.sent))
        fetched = LIBRARIES["confluent-kafka"].fetch(bootstrap, self.topic, self.sent)
        assert [int(record.value.split(b" ")[0]) for record in fetched] == list(range(self.sent))


def test_a_broker_without_descriptors_goes_on_when_it_has_some(cluster, topic):
    create_topic(cluster.bootstrap, topic, segment_bytes=SEGMENT_BYTES)
    producing = Producing(cluster.bootstrap, topic)
    producing.send(2)
    assert producing.producer.flush(30) == 0
    pid = cluster.pid()
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    try:
        # Not one more than it has now.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), before[1]))
        producing.send(12)
        producing.producer.flush(5)
        assert 2 < len(producing.offsets) < producing.sent, "the next segment has no file"
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    producing.finish(cluster.bootstrap)


def ready(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(100)
    except OSError:
        return False


def test_a_flood_of_connections_leaves_descriptors_to_logs(cluster, topic, tmp_path):
    quorum, metrics = spare_port(cluster, 100), spare_port(cluster, 110)
    port, own_metrics = spare_port(cluster, 120), spare_port(cluster, 130)
    bootstrap = f"127.0.0.1:{port}"
    commands = [
        controller_command(cluster, tmp_path / "controller", f"127.0.0.1:{quorum}", metrics=f"127.0.0.1:{metrics}"),
        [
            "prlimit", f"--nofile={OPEN_FILES}",
            *broker_command(cluster, tmp_path / "broker", bootstrap, controllers=f"127.0.0.1:{quorum}",
                            metrics=f"127.0.0.1:{own_metrics}"),
        ],
    ]
    processes, flood = [], []
    try:
        for command in commands:
            processes.append(subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        wait_until(lambda: ready(own_metrics), "the broker to be ready")
        create_topic(bootstrap, topic, segment_bytes=SEGMENT_BYTES)
        producing = Producing(bootstrap, topic)
        producing.send(1)
        assert producing.producer.flush(30) == 0
        for _ in range(FLOOD):
            flood.append(socket.create_connection(("127.0.0.1", port), timeout=5))
        time.sleep(1)
        # Several segments, each with a file of its own.
        producing.send(20)
        assert producing.producer.flush(30) == 0
        for connection in flood:
            connection.close()
        producing.finish(bootstrap)
    finally:
        for connection in flood:
            connection.close()
        for process in processes:
            process.kill()
            process.wait()
