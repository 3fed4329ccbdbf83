"""Clients that do what they should not. Each is a process of its own and has one habit after another until it is told to stop."""

import contextlib
import functools
import gzip
import multiprocessing
import os
import random
import socket
import struct
import time

import wire
from wire import frame, header

TOPIC = "hostile"
PARTITIONS = 4
CONNECTIONS_MAX = 100
DESCRIBE_CONFIGS = 32
OFFSET_FETCH = 9

FORK = multiprocessing.get_context("fork")


class Hostile:
    """One client after another that does something bad, until it is told to stop."""

    def __init__(self, cluster, seed, share):
        """`share`, from 0 to 1, says where in the list of habits it begins, so that a few clients soon have had all of them."""
        self.cluster, self.chance, self.stopped = cluster, random.Random(seed), FORK.Event()
        first = int(share * len(HABITS))
        self.habits = HABITS[first:] + HABITS[:first]
        self.done, self.sent, self.received = {}, 0, 0
        self.report, told = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=self.run, args=(told,), daemon=True)

    def start(self):
        self.process.start()

    def stop(self):
        self.stopped.set()

    def join(self):
        """What it did: how often each habit, and the bytes it sent and received."""
        done = self.report.recv() if self.report.poll(60) else ({}, 0, 0)
        self.process.join(10)
        return done

    def run(self, told):
        # Elsewhere it would be on a machine of its own: here it has the processor's time that the broker and the honest clients leave. The
        # class alone does not say so: it counts within a session, and the kernel shares processors evenly among sessions first (autogroup).
        os.setsid()
        with contextlib.suppress(OSError), open("/proc/self/autogroup", "w", encoding="ascii") as group:
            group.write("19")
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        while not self.stopped.is_set():
            for habit in self.habits:
                self.have(habit)
            self.chance.shuffle(self.habits)
        told.send((self.done, self.sent, self.received))

    def have(self, habit):
        if self.stopped.is_set():
            return
        try:
            habit(self)
        except (OSError, ConnectionError, struct.error, AssertionError):
            pass  # The broker closes on most of them, as it should.
        else:
            self.done[habit.__name__] = self.done.get(habit.__name__, 0) + 1

    def connect(self, **options):
        return Connection(self, **options)

    def rest(self, seconds):
        self.stopped.wait(self.chance.random() * seconds)


class Connection(wire.Connection):
    """Counts its bytes, and does not wait for long."""

    def __init__(self, client, receive_buffer=None):
        super().__init__(client.cluster, receive_buffer)
        self.client = client
        self.socket.settimeout(3)

    def send(self, content):
        view = memoryview(content)
        while view:
            sent = self.socket.send(view)
            self.client.sent += sent
            view = view[sent:]

    def take(self, count):
        part = self.socket.recv(count)
        self.client.received += len(part)
        return part

    def drain(self, seconds):
        """Reads for so long, or until the broker closes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.take(1 << 20):
            pass

    def skip_answer(self):
        (left,) = struct.unpack(">i", self.receive(4))
        while left > 0:
            part = self.take(min(left, 1 << 20))
            if not part:
                raise ConnectionError("closed by the broker")
            left -= len(part)

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


# --- What they send, made once ------------------------------------------------------------------------------------------------


@functools.cache
def fetch_of_many(count, wait_ms=500):
    """Fetch version 4 that names the partitions of a topic again and again."""
    partitions = [n % PARTITIONS if n % 2 else n for n in range(min(count, 1000))]
    one = b"".join(wire.i32(n) + wire.i64(0) + wire.i32(1) for n in partitions) * (count // len(partitions))
    limits = wire.i32(-1) + wire.i32(wait_ms) + wire.i32(1 << 30) + wire.i32(1 << 20) + wire.i8(0)
    return frame(header(wire.FETCH, 4) + limits + wire.array(wire.string(TOPIC) + wire.i32(count) + one))


@functools.cache
def metadata_of_many(count):
    names = b"".join(wire.string(f"none-{n}") for n in range(count))
    return frame(header(wire.METADATA, 4) + wire.i32(count) + names + wire.i8(0))


@functools.cache
def offsets_of_many(count):
    """OffsetFetch version 5 of one group."""
    partitions = wire.i32(count) + b"".join(wire.i32(n) for n in range(count))
    return frame(header(OFFSET_FETCH, 5) + wire.string("hostile") + wire.array(wire.string(TOPIC) + partitions))


@functools.cache
def configs_of_many(count):
    resource = wire.i8(2) + wire.string(TOPIC) + wire.i32(-1)
    return frame(header(DESCRIBE_CONFIGS, 1) + wire.i32(count) + resource * count + wire.i8(1))


@functools.cache
def produce_of_many(batches, records, value_bytes):
    """Produce version 3 of so many batches of so many records to the topic's partitions in turn."""
    batch = wire.data(wire.batch([bytes(value_bytes)] * records))
    partitions = wire.i32(batches) + b"".join(wire.i32(n % PARTITIONS) + batch for n in range(batches))
    body = wire.string(None) + wire.i16(1) + wire.i32(1000) + wire.array(wire.string(TOPIC) + partitions)
    return frame(header(wire.PRODUCE, 3) + body)


@functools.cache
def produce_to_nobody(topics):
    """Produce version 3 to topics that do not exist, whose names have to be answered."""
    one = wire.i32(1) + wire.i32(0) + wire.data(wire.batch([b""]))
    names = b"".join(wire.string(f"{'none' * 50}-{n}") + one for n in range(topics))
    return frame(header(wire.PRODUCE, 3) + wire.string(None) + wire.i16(-1) + wire.i32(1000) + wire.i32(topics) + names)


@functools.cache
def bomb(megabytes):
    """A gzip batch of one record that is much longer than it looks."""
    packed = gzip.compress(wire.record(bytes(megabytes << 20)), 1)
    return frame(wire.produce_request(TOPIC, wire.batch([b""], records=packed, attributes=1)))


@functools.cache
def produce_of(size):
    return [frame(wire.produce_request(TOPIC, wire.batch([bytes(size)]), p, acks=0)) for p in range(PARTITIONS)]


# --- Habits -------------------------------------------------------------------------------------------------------------------


def half_a_frame(client):
    with client.connect() as connection:
        length = client.chance.choice([100, 5000, 200_000, 300_000, 50_000_000])
        begun = client.chance.randrange(min(length, 500_000))
        connection.send(wire.i32(length) + header(wire.PRODUCE, 3) + bytes(begun))
        client.rest(5)


def a_byte_at_a_time(client):
    with client.connect() as connection:
        for byte in frame(wire.metadata_request()):
            connection.send(bytes([byte]))
            client.rest(0.04)
        connection.answer()


def resets(client):
    for _ in range(20):
        connection = client.connect()
        connection.send(frame(wire.fetch_request(TOPIC, bytes_max=8 << 20)))
        client.rest(0.02)
        connection.reset()


def floods_of_connections(client):
    connections = [client.connect() for _ in range(CONNECTIONS_MAX)]
    client.rest(1)
    for connection in connections:
        connection.socket.close()


def fetches_and_does_not_read(client):
    with client.connect(receive_buffer=4096) as connection:
        connection.send(frame(wire.fetch_request(TOPIC, bytes_max=50 << 20)) * 50)
        client.rest(10)


def reads_slowly(client):
    with client.connect(receive_buffer=4096) as connection:
        connection.send(frame(wire.fetch_request(TOPIC, bytes_max=50 << 20)) * 3)
        for _ in range(50):
            connection.take(20_000)
            client.rest(0.2)


def names_very_much(client):
    with client.connect() as connection:
        # The largest of them name more than the broker takes.
        connection.send(fetch_of_many(client.chance.choice([10_000, 100_000, 240_000, 300_000])))
        connection.send(metadata_of_many(client.chance.choice([10_000, 100_000, 240_000, 300_000])))
        connection.send(offsets_of_many(client.chance.choice([10_000, 100_000, 240_000])))
        for _ in range(3):
            connection.skip_answer()


def describes_everything(client):
    with client.connect(receive_buffer=4096) as connection:
        connection.send(configs_of_many(client.chance.choice([3000, 9000])))
        client.rest(3)


def random_bytes(client):
    for _ in range(50):
        with client.connect() as connection:
            chance = client.chance
            connection.send(frame(header(chance.randrange(70), chance.randrange(18)) + chance.randbytes(chance.randrange(300))))
            connection.socket.shutdown(1)
            connection.drain(1)


def floods_without_answers(client):
    """acks=0 as fast as it goes, to partitions of every shard, in small and large batches."""
    requests = produce_of(client.chance.choice([10, 1000, 60_000, 900_000]))
    with client.connect() as connection:
        end = time.monotonic() + 0.5
        while time.monotonic() < end and not client.stopped.is_set():
            connection.send(client.chance.choice(requests))
        client.rest(0.5)


def large_frames(client):
    with client.connect() as connection:
        connection.send(produce_of_many(20, 1, 900_000))
        client.rest(1)


def small_records(client):
    """Many records in a batch and many batches in a request: what is dearest to check."""
    with client.connect() as connection:
        connection.send(produce_of_many(20, 50_000, 0))
        connection.send(produce_of_many(15_000, 1, 0))
        connection.skip_answer()
        connection.skip_answer()


def bombs(client):
    with client.connect() as connection:
        for _ in range(3):
            connection.send(bomb(60))
            connection.skip_answer()


def large_frames_that_never_end(client):
    """Together they ask for more than there is for large frames, and keep it until the broker has had enough."""
    chunk = bytes(1 << 20)
    connections = [client.connect() for _ in range(4)]
    for connection in connections:
        connection.send(wire.i32(100_000_000) + header(wire.PRODUCE, 3))
        connection.socket.settimeout(0.5)
    try:
        for _ in range(client.chance.randrange(90)):
            for connection in connections:
                connection.send(chunk)
    finally:
        client.rest(3)
        for connection in connections:
            connection.reset()


def begins_many_large_frames(client):
    connections = [client.connect() for _ in range(CONNECTIONS_MAX // 2)]
    for connection in connections:
        connection.send(wire.i32(90_000_000) + bytes(client.chance.randrange(100_000)))
    client.rest(2)
    for connection in connections:
        connection.socket.close()


def produces_to_nobody_and_does_not_read(client):
    with client.connect(receive_buffer=4096) as connection:
        for _ in range(20):
            connection.send(produce_to_nobody(5000))
        client.rest(5)


def waits_and_leaves(client):
    for _ in range(10):
        connection = client.connect()
        connection.send(fetch_of_many(10_000, wait_ms=60_000))
        client.rest(0.2)
        connection.reset()


HABITS = [
    half_a_frame, a_byte_at_a_time, resets, floods_of_connections, fetches_and_does_not_read, reads_slowly, names_very_much,
    describes_everything, random_bytes, floods_without_answers, large_frames, small_records, bombs, large_frames_that_never_end,
    begins_many_large_frames, produces_to_nobody_and_does_not_read, waits_and_leaves,
]


def prepare():
    """Makes what they send before they are forked, so that no time of theirs goes into it."""
    for count in (10_000, 100_000, 240_000, 300_000):
        fetch_of_many(count)
        metadata_of_many(count)
        offsets_of_many(count)
    fetch_of_many(10_000, wait_ms=60_000)
    for count in (3000, 9000):
        configs_of_many(count)
    for size in (10, 1000, 60_000, 900_000):
        produce_of(size)
    for many in ((20, 1, 900_000), (20, 50_000, 0), (15_000, 1, 0)):
        produce_of_many(*many)
    produce_to_nobody(5000)
    bomb(60)
