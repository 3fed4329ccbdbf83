"""Hostile clients of every kind beside an honest producer and consumer, for as long as one likes: memory stays within a bound and flat,
and the honest ones are served. `scripts/soak --minutes 10` runs it and prints how long the honest ones wait, with and without the others."""

import random
import socket
import struct
import threading
import time

import wire
from libraries import create_topic
from wire import Connection, frame, header

HONEST_TOPIC = "honest"
HOSTILE_TOPIC = "hostile"
PARTITIONS = 4

# What the frames of a shard may come to, its requests and answers, and records that were copied for slow readers (limits.rs); the tail
# and the receive buffers are there from the start.
SHARD_BYTES_MAX = (256 + 64 + 256 + 64) << 20
CONNECTION_BYTES_MAX = 16 << 10
CONNECTIONS = 400


class Hostile(threading.Thread):
    """One client after another that does something bad, until it is told to stop."""

    def __init__(self, cluster, seed, stop):
        super().__init__(daemon=True)
        self.cluster, self.chance, self.stop = cluster, random.Random(seed), stop
        self.done = {}

    def run(self):
        habits = [
            half_a_frame, a_byte_at_a_time, resets, floods_of_connections, fetches_and_does_not_read, reads_slowly,
            names_very_much, describes_everything, random_bytes, floods_without_answers, large_frames,
        ]
        while not self.stop.is_set():
            habit = self.chance.choice(habits)
            try:
                habit(self.cluster, self.chance, self.stop)
                self.done[habit.__name__] = self.done.get(habit.__name__, 0) + 1
            except (OSError, ConnectionError, struct.error, AssertionError):
                pass  # The broker closes on most of them, as it should.


def rest(stop, seconds):
    stop.wait(seconds)


def half_a_frame(cluster, chance, stop):
    with Connection(cluster) as connection:
        length = chance.choice([100, 5000, 200_000, 300_000, 50_000_000])
        connection.socket.settimeout(2)
        connection.send(wire.i32(length) + header(wire.PRODUCE, 3) + bytes(chance.randrange(min(length, 500_000))))
        rest(stop, chance.random() * 5)


def a_byte_at_a_time(cluster, chance, stop):
    with Connection(cluster) as connection:
        for byte in frame(wire.metadata_request()):
            connection.send(bytes([byte]))
            rest(stop, 0.02)
        connection.answer()


def resets(cluster, chance, stop):
    for _ in range(20):
        with Connection(cluster) as connection:
            connection.send(frame(wire.fetch_request(HOSTILE_TOPIC, bytes_max=8 << 20)))
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            rest(stop, chance.random() * 0.02)


def floods_of_connections(cluster, chance, stop):
    connections = [Connection(cluster) for _ in range(CONNECTIONS // 4)]
    rest(stop, chance.random())
    for connection in connections:
        connection.socket.close()


def fetches_and_does_not_read(cluster, chance, stop):
    with Connection(cluster, receive_buffer=4096) as connection:
        connection.send(frame(wire.fetch_request(HOSTILE_TOPIC, bytes_max=50 << 20)) * 50)
        rest(stop, chance.random() * 10)


def reads_slowly(cluster, chance, stop):
    with Connection(cluster, receive_buffer=4096) as connection:
        connection.send(frame(wire.fetch_request(HOSTILE_TOPIC, bytes_max=50 << 20)) * 3)
        for _ in range(50):
            connection.socket.recv(20_000)
            rest(stop, 0.1)


def names_very_much(cluster, chance, stop):
    count = chance.choice([10_000, 100_000, 300_000])
    partitions = [chance.randrange(PARTITIONS) if chance.random() < 0.5 else n for n in range(min(count, 1000))]
    one = b"".join(wire.i32(n) + wire.i64(0) + wire.i32(1) for n in partitions) * (count // len(partitions))
    limits = wire.i32(-1) + wire.i32(500) + wire.i32(1 << 30) + wire.i32(1 << 20) + wire.i8(0)
    with Connection(cluster) as connection:
        connection.send(frame(header(wire.FETCH, 4) + limits + wire.array(wire.string(HOSTILE_TOPIC) + wire.i32(count) + one)))
        names = b"".join(wire.string(f"none-{n}") for n in range(2000)) * (count // 2000)
        connection.send(frame(header(wire.METADATA, 4) + wire.i32(count) + names + wire.i8(0)))
        connection.answer()
        connection.answer()


def describes_everything(cluster, chance, stop):
    with Connection(cluster, receive_buffer=4096) as connection:
        resources = b"".join(wire.i8(2) + wire.string(HOSTILE_TOPIC) + wire.i32(-1) for _ in range(3000))
        connection.send(frame(header(32, 1) + wire.i32(3000) + resources + wire.i8(1)))
        rest(stop, chance.random() * 3)


def random_bytes(cluster, chance, stop):
    for _ in range(50):
        with Connection(cluster) as connection:
            connection.send(frame(header(chance.randrange(70), chance.randrange(18)) + chance.randbytes(chance.randrange(300))))
            connection.socket.shutdown(1)
            while connection.socket.recv(65536):
                pass


def floods_without_answers(cluster, chance, stop):
    """acks=0 as fast as it goes, to partitions of every shard, in small and large batches."""
    size = chance.choice([10, 1000, 60_000, 900_000])
    requests = [frame(wire.produce_request(HOSTILE_TOPIC, wire.batch([bytes(size)]), p, acks=0)) for p in range(PARTITIONS)]
    with Connection(cluster) as connection:
        connection.socket.settimeout(2)
        end = time.monotonic() + 0.5
        while time.monotonic() < end and not stop.is_set():
            connection.send(chance.choice(requests))
        rest(stop, 0.5)


def large_frames(cluster, chance, stop):
    with Connection(cluster) as connection:
        connection.socket.settimeout(3)
        records = wire.batch([bytes(900_000)])
        partitions = wire.i32(20) + b"".join(wire.i32(n % PARTITIONS) + wire.data(records) for n in range(20))
        body = wire.string(None) + wire.i16(1) + wire.i32(1000) + wire.array(wire.string(HOSTILE_TOPIC) + partitions)
        connection.send(frame(header(wire.PRODUCE, 3) + body))
        rest(stop, chance.random())


class Honest(threading.Thread):
    """Produces a record, reads it back, and does it again. Never is one refused, lost or kept waiting until it gives up."""

    def __init__(self, cluster, partition, stop):
        super().__init__(daemon=True)
        self.cluster, self.partition, self.stop = cluster, partition, stop
        self.seconds, self.failure = [], None

    def run(self):
        try:
            with Connection(self.cluster) as connection:
                number = 0
                while not self.stop.is_set():
                    number += 1
                    value = b"%d:%d" % (self.partition, number)
                    begun = time.monotonic()
                    error, offset = connection.produce(HONEST_TOPIC, wire.batch([value]), self.partition)
                    assert error == wire.NONE, f"produce was refused with {error}"
                    error, _, records = connection.fetch(HONEST_TOPIC, self.partition, offset)
                    assert error == wire.NONE and value in records, f"fetch gave {error}"
                    self.seconds.append((time.monotonic(), time.monotonic() - begun))
                    time.sleep(0.01)
        except Exception as failure:  # pylint: disable=broad-except
            self.failure = failure

    def waited(self, begin, end):
        return [seconds for at, seconds in self.seconds if begin <= at < end]


def prepare(cluster):
    for name in (HONEST_TOPIC, HOSTILE_TOPIC):
        create_topic(cluster.bootstrap, name, PARTITIONS)
    with Connection(cluster) as connection:
        for number in range(40):
            connection.produce(HOSTILE_TOPIC, wire.batch([bytes(500_000)]), number % PARTITIONS)


def memory_bound(before, shards):
    return before + shards * SHARD_BYTES_MAX + 16 * CONNECTIONS * CONNECTION_BYTES_MAX


def soak(cluster, seconds, hostile=8, quiet=None, seed=1):
    """Runs hostile clients for so long, with quiet times in between if asked for. Returns what was seen."""
    prepare(cluster)
    stop = threading.Event()
    honest = [Honest(cluster, partition, stop) for partition in range(PARTITIONS)]
    for client in honest:
        client.start()
    before = most = cluster.resident_bytes()
    phases, samples, done = [], [], {}
    end = time.monotonic() + seconds
    round = 0
    while time.monotonic() < end:
        round += 1
        begun = time.monotonic()
        if quiet:
            time.sleep(quiet)
            phases.append(("without", begun, time.monotonic()))
            begun = time.monotonic()
        over = threading.Event()
        attackers = [Hostile(cluster, seed * 1000 + round * 100 + n, over) for n in range(hostile)]
        for attacker in attackers:
            attacker.start()
        until = min(end, begun + quiet * 2) if quiet else end
        while time.monotonic() < until:
            time.sleep(0.2)
            resident = cluster.resident_bytes()
            most = max(most, resident)
            samples.append(resident)
        over.set()
        for attacker in attackers:
            attacker.join(30)
            for name, count in attacker.done.items():
                done[name] = done.get(name, 0) + count
        phases.append(("with", begun, time.monotonic()))
    stop.set()
    for client in honest:
        client.join(60)
    failures = [client.failure for client in honest if client.failure]
    return {"before": before, "most": most, "samples": samples, "phases": phases, "honest": honest, "failures": failures, "done": done}
