"""What producers claim of their records and what is true of them, over raw sockets, on partitions of every shard."""

import gzip
import struct
import time

import pytest

import wire
from libraries import alter_topic, create_topic
from wire import Connection, varint

PARTITIONS = 4
HOUR_MS = 3_600_000
GZIP = 1
BATCH_BYTES_MAX = 16 * 1024 * 1024

NOT_ENOUGH_REPLICAS = 19
INVALID_TIMESTAMP = 32


def now_ms():
    return time.time_ns() // 1_000_000


def framed(body):
    return varint(len(body)) + body


def plain(records, count):
    return wire.batch([b""] * count, records=records)


def gzipped(payload, count):
    return wire.batch([b""] * count, records=payload, attributes=GZIP)


TWO = wire.record(b"a", 0) + wire.record(b"b", 1)
EMPTY = b"\0\0\0" + varint(-1) * 2 + varint(0)

LIES = {
    "gzip: no stream": gzipped(b"this is no gzip stream", 2),
    "gzip: nothing": gzipped(b"", 1),
    "gzip: a stream of nothing": gzipped(gzip.compress(b""), 1),
    "gzip: cut": gzipped(gzip.compress(TWO * 200)[:-12], 400),
    "gzip: bytes behind the stream": gzipped(gzip.compress(TWO) + b"more", 2),
    "gzip: 2 counted as 5": gzipped(gzip.compress(TWO), 5),
    "gzip: 2 counted as 1": gzipped(gzip.compress(TWO), 1),
    "gzip: the same offset twice": gzipped(gzip.compress(wire.record(b"a", 0) * 2), 2),
    "gzip: more than fits the record": gzipped(gzip.compress(framed(EMPTY + b"rest")), 1),
    "gzip: long, and cut": gzipped(gzip.compress(wire.record(bytes(3_000_000), 0), 1)[:-9], 1),
    "snappy: garbage": wire.batch([b""], records=b"\xff" * 40, attributes=2),
    "lz4: garbage": wire.batch([b""], records=b"\xff" * 40, attributes=3),
    "2 counted as 3": plain(TWO, 3),
    "2 counted as 1": plain(TWO, 1),
    "the same offset twice": plain(wire.record(b"a", 0) * 2, 2),
    "bytes behind the records": plain(TWO + b"x", 2),
    "a key longer than its record": plain(framed(b"\0\0\0" + varint(100) + b"abcd"), 1),
    "no length of a value": plain(framed(b"\0\0\0" + varint(-1)), 1),
    "1000 headers that are not there": plain(framed(b"\0\0\0" + varint(-1) * 2 + varint(1000)), 1),
    "more than fits the record": plain(framed(EMPTY + b"rest"), 1),
    "a record longer than the batch": plain(varint(500) + bytes(20), 1),
    "a first offset of 1": wire.batch([b"a"], base_offset=1),
}


def test_records_that_are_not_what_the_header_says_are_refused(cluster, topic):
    create_topic(cluster.bootstrap, topic, partitions=PARTITIONS, max_message_bytes=8_000_000)
    with Connection(cluster) as connection:
        for partition in range(PARTITIONS):
            taken = [name for name, records in LIES.items() if connection.produce(topic, records, partition) != (wire.INVALID_RECORD, -1)]
            assert not taken
            assert connection.produce(topic, wire.batch([b"good"]), partition) == (wire.NONE, 0)


def test_compressed_batches_of_any_size_come_back_as_they_were(cluster, topic):
    """The large ones take longer to look at than one turn of a shard."""
    create_topic(cluster.bootstrap, topic, partitions=PARTITIONS)
    with Connection(cluster) as connection:
        for partition in range(PARTITIONS):
            offset = 0
            for value in (b"v", bytes(100_000), bytes(10_000_000)):
                records = gzip.compress(wire.record(value, 0) + wire.record(value, 1), 1)
                sent = gzipped(records, 2)
                assert connection.produce(topic, sent, partition) == (wire.NONE, offset)
                _, _, stored = connection.fetch(topic, partition, offset)
                assert stored[17:] == sent[17:], "from the CRC on nothing was changed"
                offset += 2


def test_the_largest_batches_come_out_whole_and_no_topic_promises_larger_ones(cluster, topic):
    create_topic(cluster.bootstrap, topic, max_message_bytes=BATCH_BYTES_MAX)
    with Connection(cluster) as connection:
        sent = wire.batch([bytes(15_000_000)])
        assert connection.produce(topic, sent) == (wire.NONE, 0)
        stored = connection.fetch(topic)[2]
        assert stored[17:] == sent[17:]
        assert connection.produce(topic, wire.batch([bytes(BATCH_BYTES_MAX)])) == (wire.MESSAGE_TOO_LARGE, -1)
    with pytest.raises(Exception, match="no more than"):
        alter_topic(cluster.bootstrap, topic, max_message_bytes=BATCH_BYTES_MAX + 1)


def test_a_bomb_is_refused_and_does_not_stop_others(cluster, topic):
    create_topic(cluster.bootstrap, topic)
    with Connection(cluster) as bomber, Connection(cluster) as other:
        bomb = gzipped(gzip.compress(wire.record(bytes(120_000_000), 0), 9), 1)
        bomber.send(wire.frame(wire.produce_request(topic, bomb)))
        for number in range(20):
            assert other.produce(topic, wire.batch([b"good"])) == (wire.NONE, number)
        answer = bomber.answer()
        assert (answer.take("i"), answer.string(), answer.take("i"), answer.take("i")) == (1, topic, 1, 0)
        assert answer.take("h") == wire.MESSAGE_TOO_LARGE


def test_the_largest_time_is_that_of_the_records_whatever_is_claimed(cluster, topic):
    create_topic(cluster.bootstrap, topic, partitions=PARTITIONS)
    now = now_ms()
    with Connection(cluster) as connection:
        for partition in range(PARTITIONS):
            for offset, claimed in enumerate((-1, 0, now - HOUR_MS, now + 100 * HOUR_MS)):
                records = wire.batch([b"a"], base_timestamp=now, max_timestamp=claimed)
                assert connection.produce(topic, records, partition) == (wire.NONE, offset)
                _, _, stored = connection.fetch(topic, partition, offset)
                assert struct.unpack_from(">q", stored, 35)[0] == now
                assert struct.unpack_from(">I", stored, 17)[0] == wire.crc32c.crc32c(stored[21:])
            ahead = wire.batch([b"a"], base_timestamp=now + 100 * HOUR_MS, max_timestamp=now)
            assert connection.produce(topic, ahead, partition)[0] == INVALID_TIMESTAMP


@pytest.mark.parametrize("timestamp_type", ["CreateTime", "LogAppendTime"])
def test_the_bit_of_the_append_time_is_the_brokers(cluster, topic, timestamp_type):
    create_topic(cluster.bootstrap, topic, message_timestamp_type=timestamp_type)
    with Connection(cluster) as connection:
        error, _ = connection.produce(topic, wire.batch([b"a"], attributes=8))
        if timestamp_type == "LogAppendTime":
            assert error == INVALID_TIMESTAMP
        else:
            assert error == wire.NONE
            assert struct.unpack_from(">h", connection.fetch(topic)[2], 21)[0] == 0


def test_a_batch_sent_again_gets_its_offset_although_the_limit_was_lowered(cluster, topic):
    create_topic(cluster.bootstrap, topic, partitions=PARTITIONS)
    sent = wire.batch([bytes(5000)], producer_id=1 << 40, producer_epoch=0, base_sequence=0)
    following = wire.batch([bytes(5000)], producer_id=1 << 40, producer_epoch=0, base_sequence=1)
    with Connection(cluster) as connection:
        for partition in range(PARTITIONS):
            assert connection.produce(topic, wire.batch([b"first"]), partition) == (wire.NONE, 0)
            assert connection.produce(topic, sent, partition) == (wire.NONE, 1)
        alter_topic(cluster.bootstrap, topic, max_message_bytes=1000)
        for partition in range(PARTITIONS):
            assert connection.produce(topic, sent, partition) == (wire.NONE, 1)
            assert connection.produce(topic, following, partition)[0] == wire.MESSAGE_TOO_LARGE


def test_more_replicas_wanted_in_sync_than_there_are(cluster, topic):
    create_topic(cluster.bootstrap, topic, min_insync_replicas=2)
    with Connection(cluster) as connection:
        request = wire.produce_request(topic, wire.batch([b"a"]), acks=-1)
        answer = connection.exchange(request)
        assert (answer.take("i"), answer.string(), answer.take("i"), answer.take("i")) == (1, topic, 1, 0)
        assert answer.take("h") == NOT_ENOUGH_REPLICAS
        answer = connection.exchange(wire.produce_request(topic, wire.batch([b"a"]), acks=1))
        assert (answer.take("i"), answer.string(), answer.take("i"), answer.take("i")) == (1, topic, 1, 0)
        assert (answer.take("h"), answer.take("q")) == (wire.NONE, 0)
