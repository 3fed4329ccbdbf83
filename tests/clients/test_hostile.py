"""Clients that break the rules, over raw sockets: each gets the right error or a closed connection, and nobody else notices."""

import os
import random
import resource
import socket
import struct
import time
import urllib.request
from contextlib import ExitStack

import pytest

import hostile
import wire
from libraries import create_topic
from wire import Connection, frame, header

HEALTHY_TOPIC = "healthy"
SILENT_CONNECTIONS = 10_000
SCRAPERS_MAX = 16

# Memory of the broker that an idle connection may cost, and what it may grow by for any other reason.
IDLE_CONNECTION_BYTES_MAX = 16 * 1024
GROWTH_BYTES_MAX = 192 * 1024 * 1024

# What long requests take at least while they are served, what may be kept of it afterwards, and for how long more than that.
LONG_REQUESTS = 8
LONG_REQUESTS_BYTES_MIN = 128 * 1024 * 1024
KEPT_BYTES_MAX = 32 * 1024 * 1024
KEPT_SECONDS_MAX = 30


@pytest.fixture(scope="module", autouse=True)
def topics(cluster):
    create_topic(cluster.bootstrap, HEALTHY_TOPIC)


@pytest.fixture(autouse=True)
def nobody_else_notices(cluster):
    """After whatever a test did, the broker is the same process and serves a client as before."""
    pid = cluster.pid()
    yield
    assert cluster.is_running() and cluster.pid() == pid
    check_healthy(cluster)


def check_healthy(cluster):
    with Connection(cluster) as connection:
        value = b"still here %d" % time.time_ns()
        error, offset = connection.produce(HEALTHY_TOPIC, wire.batch([value]))
        assert error == wire.NONE
        error, high_watermark, records = connection.fetch(HEALTHY_TOPIC, offset=offset)
        assert error == wire.NONE and high_watermark > offset and value in records


# What no request can be: the connection is closed, and nothing is answered.

CLOSED = {
    "negative length": wire.i32(-1),
    "most negative length": wire.i32(-(2**31)),
    "length of two gigabytes": wire.i32(2**31 - 1),
    "length over the limit": wire.i32(101 * 1024 * 1024) + bytes(1000),
    "no bytes": frame(b""),
    "less than a header": frame(wire.i16(wire.METADATA) + b"\0"),
    "header cut in its client id": frame(wire.i16(wire.METADATA) + wire.i16(1) + wire.i32(1) + wire.i16(500) + b"short"),
    "unknown API": frame(header(9999, 0)),
    "negative API": frame(header(-1, 0)),
    "an API for brokers among themselves": frame(header(4, 0)),
    "unsupported version": frame(header(wire.METADATA, 999) + wire.array()),
    "negative version": frame(header(wire.METADATA, -1) + wire.array()),
    "version that Kafka has dropped": frame(header(wire.FETCH, 0) + bytes(100)),
    "no body": frame(header(wire.METADATA, 1)),
    "array of two billion": frame(header(wire.METADATA, 1) + wire.i32(2**31 - 1)),
    "array of a negative count": frame(header(wire.METADATA, 1) + wire.i32(-2)),
    "string of a negative length": frame(header(wire.METADATA, 1) + wire.i32(1) + wire.i16(-2)),
    "string past the end": frame(header(wire.METADATA, 1) + wire.i32(1) + wire.i16(32_000) + b"x"),
    "string that is not UTF-8": frame(header(wire.METADATA, 1) + wire.i32(1) + wire.i16(2) + b"\xff\xfe"),
    "records past the end": frame(wire.produce_request("x", b"")[:-4] + wire.i32(2**31 - 1)),
    "flexible header with endless tags": frame(header(wire.METADATA, 12) + b"\xff" * 5 + bytes(20)),
    "garbage": frame(header(wire.PRODUCE, 3) + bytes(range(256)) * 4),
    "another protocol": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": bytes.fromhex("16030100f4010000f00303") + bytes(233),
}


@pytest.mark.parametrize("content", CLOSED.values(), ids=CLOSED)
def test_what_is_no_request_closes_the_connection(cluster, content):
    with Connection(cluster) as connection:
        connection.send(content)
        assert connection.is_closed()


@pytest.mark.parametrize("kept", [1, 3, 4, 10, -1])
def test_a_frame_that_ends_early_is_dropped(cluster, kept):
    with Connection(cluster) as connection:
        connection.send(frame(wire.produce_request(HEALTHY_TOPIC, wire.batch([b"never"])))[:kept])
        connection.socket.shutdown(1)
        assert connection.is_closed()


def test_an_unknown_version_of_api_versions_is_answered_in_version_0(cluster):
    with Connection(cluster) as connection:
        # As a client of the future would: no tags, its software's name and version as compact strings, no tags.
        body = b"\0" + b"\x07future" + b"\x0499x" + b"\0"
        answer = connection.exchange(header(wire.API_VERSIONS, 999) + body)
        assert answer.take("h") == wire.UNSUPPORTED_VERSION
        versions = {answer.take("h"): (answer.take("h"), answer.take("h")) for _ in range(answer.take("i"))}
        assert wire.API_VERSIONS in versions
        # The client goes on with a version that it was told.
        assert connection.exchange(header(wire.API_VERSIONS, 0)).take("h") == wire.NONE


def test_random_bytes_under_every_api(cluster):
    chance = random.Random(20_240)
    for round in range(600):
        api, version = chance.randrange(0, 70), chance.randrange(0, 18)
        body = chance.randbytes(chance.randrange(0, 200))
        with Connection(cluster) as connection:
            connection.send(frame(header(api, version) + body))
            connection.socket.shutdown(1)
            # An answer or none: what counts is that the broker stays, which the fixture sees.
            try:
                while connection.socket.recv(65536):
                    pass
            except ConnectionResetError:
                pass


def test_every_bit_of_a_produce_request_flipped(cluster, topic):
    create_topic(cluster.bootstrap, topic)
    request = wire.produce_request(topic, wire.batch([b"flip", b"me"]))
    # The topic name's own bits would only name other topics, and auto-create some of them.
    for position in range(len(request)):
        if request.find(topic.encode()) <= position < request.find(topic.encode()) + len(topic):
            continue
        flipped = bytearray(request)
        flipped[position] ^= 1 << (position % 8)
        with Connection(cluster) as connection:
            connection.send(frame(bytes(flipped)))
            connection.socket.shutdown(1)
            try:
                while connection.socket.recv(65536):
                    pass
            except ConnectionResetError:
                pass
    with Connection(cluster) as connection:
        error, _, records = connection.fetch(topic)
        assert error == wire.NONE
        for content in whole_batches(records):
            length, crc = struct.unpack_from(">i", content, 8)[0], struct.unpack_from(">I", content, 17)[0]
            assert length == len(content) - 12 and crc == wire.crc32c.crc32c(content[21:])


def whole_batches(records):
    while len(records) >= 12:
        length = 12 + struct.unpack_from(">i", records, 8)[0]
        if length > len(records):
            return
        yield records[:length]
        records = records[length:]


# Batches that are refused, each with Kafka's code, and leave nothing behind.

REFUSED_BATCHES = {
    "wrong CRC": (wire.batch([b"a"], crc=1), {wire.CORRUPT_MESSAGE}),
    "wrong magic": (
        wire.batch([b"a"], magic=3),
        {wire.CORRUPT_MESSAGE, wire.UNSUPPORTED_FOR_MESSAGE_FORMAT, wire.INVALID_RECORD},
    ),
    "magic of Kafka 0.10": (
        wire.batch([b"a"], magic=1),
        {wire.CORRUPT_MESSAGE, wire.UNSUPPORTED_FOR_MESSAGE_FORMAT, wire.INVALID_RECORD},
    ),
    "more records counted than offsets": (wire.batch([b"a"], count=2), {wire.INVALID_RECORD}),
    "more records counted than there are": (wire.batch([b"a"], count=2, last_offset_delta=1), {wire.INVALID_RECORD}),
    "fewer records counted than there are": (wire.batch([b"a", b"b"], count=1, last_offset_delta=0), {wire.INVALID_RECORD}),
    "no records": (wire.batch([], last_offset_delta=-1), {wire.INVALID_RECORD}),
    "negative count": (wire.batch([b"a"], count=-1), {wire.INVALID_RECORD}),
    "a control batch": (wire.batch([b"a"], attributes=0x20), {wire.INVALID_RECORD}),
    "length beyond the request": (wire.batch([b"a"], length=100_000), {wire.CORRUPT_MESSAGE, wire.INVALID_RECORD}),
    "negative length": (wire.batch([b"a"], length=-1), {wire.CORRUPT_MESSAGE, wire.INVALID_RECORD}),
    "cut in its header": (wire.batch([b"a"])[:30], {wire.CORRUPT_MESSAGE, wire.INVALID_RECORD}),
    "over the topic's limit": (wire.batch([bytes(20_000)]), {wire.MESSAGE_TOO_LARGE}),
}


@pytest.mark.parametrize("records, errors", REFUSED_BATCHES.values(), ids=REFUSED_BATCHES)
def test_a_bad_batch_is_refused_and_leaves_nothing(cluster, topic, records, errors):
    create_topic(cluster.bootstrap, topic, max_message_bytes=10_000)
    with Connection(cluster) as connection:
        error, _ = connection.produce(topic, records)
        assert error in errors
        error, offset = connection.produce(topic, wire.batch([b"good"]))
        assert (error, offset) == (wire.NONE, 0), "the same connection goes on, at the same offset"


def test_fetching_where_there_is_nothing(cluster, topic):
    create_topic(cluster.bootstrap, topic)
    with Connection(cluster) as connection:
        assert connection.produce(topic, wire.batch([b"one", b"two"])) == (wire.NONE, 0)
        assert connection.fetch(topic, offset=2)[0] == wire.NONE
        assert connection.fetch(topic, offset=3)[0] == wire.OFFSET_OUT_OF_RANGE
        assert connection.fetch(topic, offset=-5)[0] == wire.OFFSET_OUT_OF_RANGE
        assert connection.fetch(topic, offset=2**63 - 1)[0] == wire.OFFSET_OUT_OF_RANGE


@pytest.mark.parametrize("partition", [1, -1, 2**31 - 1])
def test_partitions_that_do_not_exist(cluster, partition):
    with Connection(cluster) as connection:
        unknown = wire.UNKNOWN_TOPIC_OR_PARTITION
        assert connection.produce(HEALTHY_TOPIC, wire.batch([b"a"]), partition)[0] == unknown
        assert connection.fetch(HEALTHY_TOPIC, partition)[0] == unknown
        assert connection.list_offsets(HEALTHY_TOPIC, partition) == unknown


def test_topics_that_do_not_exist(cluster):
    with Connection(cluster) as connection:
        for name in ("no-such-topic", "", "..", "x" * 1000):
            unknown = wire.UNKNOWN_TOPIC_OR_PARTITION
            assert connection.produce(name, wire.batch([b"a"]))[0] == unknown
            assert connection.fetch(name)[0] == unknown
            assert connection.list_offsets(name) == unknown


# Requests that name very much.


def fetch_of(topic, partitions):
    """Fetch version 4, from the start of each of these partitions."""
    wanted = array_of(i32_each + wire.i64(0) + wire.i32(1) for i32_each in map(wire.i32, partitions))
    limits = wire.i32(-1) + wire.i32(1000) + wire.i32(1) + wire.i32(1 << 20) + wire.i8(0)
    return header(wire.FETCH, 4) + limits + wire.array(wire.string(topic) + wanted)


def array_of(elements):
    elements = list(elements)
    return wire.i32(len(elements)) + b"".join(elements)


def test_a_fetch_that_names_a_partition_again_and_again_is_answered_for_it_once(cluster, topic):
    """As Kafka does, which keeps a map of them. Each used to be waited for by itself, and to be looked for in the others when it left."""
    create_topic(cluster.bootstrap, topic)
    with Connection(cluster) as connection:
        connection.send(frame(fetch_of(topic, [0] * 200_000)))
        check_healthy(cluster)
        answer = connection.answer()
        answer.take("i")
        assert (answer.take("i"), answer.string(), answer.take("i"), answer.take("i")) == (1, topic, 1, 0)
        assert answer.take("h") == wire.NONE


LONG_NAME = "x" * 30_000
NAMES_VERY_MUCH = {
    "fetch": lambda: fetch_of(LONG_NAME, range(200_000)),
    "list offsets": lambda: header(wire.LIST_OFFSETS, 1) + wire.i32(-1)
    + wire.array(wire.string(LONG_NAME) + array_of(wire.i32(n) + wire.i64(-1) for n in range(200_000))),
    "metadata": lambda: header(wire.METADATA, 1) + array_of(wire.string(f"none-{n}") for n in range(2000)),
    "the same topic": lambda: header(wire.METADATA, 1) + array_of(wire.string("none") for _ in range(200_000)),
    "offset commit": lambda: header(8, 2) + wire.string("g" * 30_000) + wire.i32(-1) + wire.string("") + wire.i64(-1)
    + wire.array(wire.string(HEALTHY_TOPIC) + array_of(wire.i32(n) + wire.i64(0) + wire.string("") for n in range(100_000))),
}


@pytest.mark.parametrize("request_of", NAMES_VERY_MUCH.values(), ids=NAMES_VERY_MUCH)
def test_a_request_that_names_very_much_is_answered_and_costs_as_much_as_it_is_long(cluster, request_of):
    before = cluster.resident_bytes()
    request = frame(request_of())
    with ExitStack() as open:
        connections = [open.enter_context(Connection(cluster)) for _ in range(12)]
        for connection in connections:
            connection.send(request)
        check_healthy(cluster)
        for connection in connections:
            connection.answer()
        assert cluster.resident_bytes() - before < GROWTH_BYTES_MAX


@pytest.mark.parametrize("request_of", [
    lambda: fetch_of("x", range(300_000)),
    lambda: fetch_of("x", []) + bytes(9_000_000),
    lambda: header(wire.PRODUCE, 3) + wire.string(None) + wire.i16(-1) + wire.i32(1000)
    + wire.array(wire.string("x") + array_of(wire.i32(n) + wire.i32(-1) for n in range(30_000))),
], ids=["too many partitions", "too many bytes", "too many batches"])
def test_a_request_that_names_more_than_any_cluster_has_is_refused(cluster, request_of):
    with Connection(cluster) as connection:
        connection.send(frame(request_of()))
        assert connection.is_closed()


# Clients that hold what they have.


def open_files_at_least(count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(count, hard)))


def test_ten_thousand_silent_connections(cluster):
    open_files_at_least(SILENT_CONNECTIONS + 500)
    before = cluster.resident_bytes()
    connections = []
    try:
        for _ in range(SILENT_CONNECTIONS):
            connections.append(Connection(cluster))
        check_healthy(cluster)
        grown = cluster.resident_bytes() - before
        print(f"{SILENT_CONNECTIONS} silent connections: {grown / SILENT_CONNECTIONS:.0f} bytes each")
        assert grown < SILENT_CONNECTIONS * IDLE_CONNECTION_BYTES_MAX
    finally:
        for connection in connections:
            connection.socket.close()


def test_silent_connections_to_the_metrics(cluster):
    """They are few at a time and for seconds, so that a scrape comes through; the rest waits in the kernel."""
    def descriptors():
        return len(os.listdir(f"/proc/{cluster.pid()}/fd"))

    before = descriptors()
    address = ("127.0.0.1", cluster.metrics_port("broker"))
    connections = [socket.create_connection(address) for _ in range(2 * SCRAPERS_MAX)]
    try:
        time.sleep(0.5)
        # Beside the broker's own, of which some come and go.
        assert descriptors() - before < 1.5 * SCRAPERS_MAX
        with urllib.request.urlopen(f"http://{address[0]}:{address[1]}/metrics", timeout=30) as answer:
            assert b"millrace_build_info" in answer.read()
        check_healthy(cluster)
    finally:
        for connection in connections:
            connection.close()


def test_frames_that_are_announced_and_never_come(cluster):
    """A length is only a claim: no memory is taken for what has not arrived."""
    open_files_at_least(3000)
    before = cluster.resident_bytes()
    connections = [Connection(cluster) for _ in range(2000)]
    try:
        for connection in connections:
            connection.send(wire.i32(100 * 1024 * 1024) + header(wire.PRODUCE, 3))
        check_healthy(cluster)
        assert cluster.resident_bytes() - before < GROWTH_BYTES_MAX
    finally:
        for connection in connections:
            connection.socket.close()


def test_large_frames_that_stop_half_way(cluster):
    """Each of many clients sends half a megabyte of a larger frame and falls silent."""
    before = cluster.resident_bytes()
    connections = [Connection(cluster) for _ in range(50)]
    try:
        for connection in connections:
            connection.socket.settimeout(0.5)
            try:
                connection.send(wire.i32(90 * 1024 * 1024) + header(wire.PRODUCE, 3) + bytes(512 * 1024))
            except TimeoutError:
                pass  # The broker has stopped reading this one, which is one way to be bounded.
        check_healthy(cluster)
        assert cluster.resident_bytes() - before < GROWTH_BYTES_MAX + 50 * 1024 * 1024
    finally:
        for connection in connections:
            connection.socket.close()


def test_clients_that_fetch_and_do_not_read(cluster, topic):
    create_topic(cluster.bootstrap, topic)
    with Connection(cluster) as connection:
        for _ in range(16):
            assert connection.produce(topic, wire.batch([bytes(500_000)]))[0] == wire.NONE
    before = cluster.resident_bytes()
    connections = [Connection(cluster, receive_buffer=4096) for _ in range(30)]
    try:
        for connection in connections:
            connection.send(b"".join(frame(wire.fetch_request(topic, bytes_max=8 << 20)) for _ in range(200)))
        for _ in range(20):
            check_healthy(cluster)
        assert cluster.resident_bytes() - before < GROWTH_BYTES_MAX
        # One of them starts to read after all and gets every answer that it asked for, in order.
        patient = connections[0]
        for _ in range(20):
            answer = patient.answer()
            assert len(answer.content) > 500_000
    finally:
        for connection in connections:
            connection.socket.close()


def test_a_client_that_sends_a_byte_at_a_time(cluster):
    request = frame(wire.metadata_request())
    with Connection(cluster) as connection:
        for position in range(len(request)):
            connection.send(request[position:position + 1])
            time.sleep(0.05)
            if position % 10 == 0:
                check_healthy(cluster)
        answer = connection.answer()
        assert answer.take("i") == 1, "one broker"


def test_many_requests_in_one_segment_are_answered_in_order(cluster):
    with Connection(cluster) as connection:
        requests = [
            wire.i16(wire.METADATA) + wire.i16(1) + wire.i32(number) + wire.string("pipelined") + wire.array()
            for number in range(500)
        ]
        connection.send(b"".join(frame(request) for request in requests))
        for number in range(500):
            (length,) = struct.unpack(">i", connection.receive(4))
            assert struct.unpack(">i", connection.receive(length)[:4]) == (number,)


def test_memory_of_long_requests_goes_back_to_the_system(cluster):
    before = cluster.resident_bytes()
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(cluster)) for _ in range(LONG_REQUESTS)]
        for connection in connections:
            connection.send(hostile.metadata_of_many(240_000))
        # None of them is read to its end yet, so that there is a moment at which all are there.
        for connection in connections:
            connection.receive(4)
        most = cluster.resident_bytes()
    assert most > before + LONG_REQUESTS_BYTES_MIN, "or there is nothing to give back"
    end = time.monotonic() + KEPT_SECONDS_MAX
    while cluster.resident_bytes() > before + KEPT_BYTES_MAX:
        assert time.monotonic() < end, f"{cluster.resident_bytes()} bytes of {most} are kept, {before} before"
        time.sleep(0.5)
