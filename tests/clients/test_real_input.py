"""The machine's own files through the whole system: many codecs, two producers, a broker and a controller killed half-way."""

import asyncio
import os
import subprocess
import threading
import time
from pathlib import Path

import aiokafka
import confluent_kafka
import pytest

from libraries import create_topic

TOPIC = "real-input"
PARTITIONS = 8
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]

FILES_BYTES_MAX = 48 << 20
LINES_BYTES_MAX = 12 << 20
KCAT_BYTES_MAX = 4 << 20
SOURCE_BYTES_MIN = 50 << 20
RECORD_BYTES_MAX = 1_000_000
SECONDS_MAX = 900


def source_files():
    """Every Rust source of the cargo registry, or the system's documentation where there is little of it."""
    cargo = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    sources = sorted((cargo / "registry" / "src").glob("**/*.rs"))
    if sum(path.stat().st_size for path in sources) < SOURCE_BYTES_MIN:
        sources = sorted(path for path in Path("/usr/share/doc").glob("**/*") if path.is_file())
    return sources


class Input:
    """What is sent: for each sender, the records of each partition in order, as (key, value, headers)."""

    def __init__(self):
        self.lines = {}
        self.kcat_lines = {codec: [] for codec in CODECS}
        self.confluent = []
        sizes = {"files": 0, "lines": 0, "kcat": 0}
        for number, path in enumerate(source_files()):
            content = path.read_bytes()
            if number % 4 == 1 and sizes["lines"] < LINES_BYTES_MAX:
                sizes["lines"] += len(content)
                self.add_lines(number, path, content)
            elif number % 4 == 2 and sizes["kcat"] < KCAT_BYTES_MAX:
                sizes["kcat"] += len(content)
                # kcat takes no empty line for a record.
                self.kcat_lines[CODECS[number // 4 % 5]] += [line for line in content.split(b"\n") if line]
            elif 0 < len(content) <= RECORD_BYTES_MAX and sizes["files"] < FILES_BYTES_MAX:
                sizes["files"] += len(content)
                codec = CODECS[number % 5]
                headers = (("sender", codec.encode()), ("path", os.fsencode(path)), ("kind", b"file"))
                self.confluent.append((codec, number % PARTITIONS, path.name.encode(), content, headers))
        self.sizes = sizes

    def add_lines(self, number, path, content):
        codec = CODECS[number % 5]
        headers = (("sender", codec.encode()), ("path", os.fsencode(path.name)), ("kind", b"line"))
        for line_number, line in enumerate(content.split(b"\n")):
            key = None if line_number % 10 == 0 else b"%d" % line_number
            if len(line) <= RECORD_BYTES_MAX:
                self.confluent.append((codec, (number + line_number // 100) % PARTITIONS, key, line, headers))

    def expected(self):
        """(sender, partition) -> records in the order in which they were sent."""
        wanted = {}
        for codec, partition, key, value, headers in self.confluent:
            wanted.setdefault((codec, partition), []).append((key, value, headers))
        for codec, lines in self.kcat_lines.items():
            sender = f"kcat-{codec}"
            headers = (("sender", sender.encode()),)
            wanted[sender, kcat_partition(codec)] = [(sender.encode(), line, headers) for line in lines]
        return wanted


def kcat_partition(codec):
    return CODECS.index(codec) + 2


class KcatSender:
    """One kcat with one codec. It ends when it has sent its lines or, as kcat does, when the only broker is gone."""

    def __init__(self, cluster, codec, lines):
        sender = f"kcat-{codec}"
        self.process = subprocess.Popen(
            ["kcat", "-P", "-b", cluster.bootstrap, "-t", TOPIC, "-p", str(kcat_partition(codec)), "-z", codec,
             "-k", sender, "-H", f"sender={sender}", "-X", "enable.idempotence=true"],
            stdin=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        self.lines = lines
        self.half_fed = threading.Event()
        self.go_on = threading.Event()
        self.thread = threading.Thread(target=self.feed)
        self.thread.start()

    def feed(self):
        """Holds back half of the lines until it may go on, so that a crash meets it in the middle."""
        half = len(self.lines) // 2
        try:
            self.process.stdin.write(b"".join(line + b"\n" for line in self.lines[:half]))
            self.process.stdin.flush()
            self.half_fed.set()
            self.go_on.wait()
            self.process.stdin.write(b"".join(line + b"\n" for line in self.lines[half:]))
            self.process.stdin.close()
        except BrokenPipeError:
            self.half_fed.set()

    def finish(self):
        """Whether all was sent, and what kcat said."""
        self.go_on.set()
        self.thread.join()
        fault = self.process.stderr.read().decode(errors="replace")
        return self.process.wait(SECONDS_MAX) == 0, fault


def send_with_kcat(cluster, lines):
    """Sends each codec's lines to the end, in one more kcat."""
    senders = [KcatSender(cluster, codec, rest) for codec, rest in lines.items()]
    for sender in senders:
        complete, fault = sender.finish()
        assert complete, fault


class ConfluentSender:
    """One producer for each codec."""

    def __init__(self, cluster):
        self.faults = []
        self.delivered = 0
        self.producers = {
            codec: confluent_kafka.Producer({
                "bootstrap.servers": cluster.bootstrap, "compression.type": codec, "enable.idempotence": True,
                "message.max.bytes": 1_048_576, "message.timeout.ms": SECONDS_MAX * 1000, "linger.ms": 5,
                "queue.buffering.max.messages": 20_000,
            })
            for codec in CODECS
        }

    def send(self, records):
        for codec, partition, key, value, headers in records:
            producer = self.producers[codec]
            while True:
                try:
                    producer.produce(TOPIC, value, key, partition, headers=list(headers), on_delivery=self.note)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)

    def wait_for_some(self):
        """Until the broker has taken records and is still busy with others."""
        while self.delivered == 0:
            for producer in self.producers.values():
                producer.poll(0.01)

    def note(self, fault, _):
        if fault is not None:
            self.faults.append(fault)
        self.delivered += 1

    def finish(self):
        for producer in self.producers.values():
            assert producer.flush(SECONDS_MAX) == 0
        assert not self.faults, self.faults[:3]


def read_with_aiokafka(cluster):
    async def work():
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=cluster.bootstrap, max_partition_fetch_bytes=4 << 20, fetch_max_bytes=16 << 20
        )
        found = {}
        async with consumer:
            places = [aiokafka.TopicPartition(TOPIC, partition) for partition in range(PARTITIONS)]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            ends = await consumer.end_offsets(places)
            missing = sum(ends.values())
            while missing > 0:
                got = await asyncio.wait_for(consumer.getmany(timeout_ms=10_000), 60)
                assert got, f"{missing} records did not come"
                for place, messages in got.items():
                    found.setdefault(place.partition, []).extend(
                        (message.offset, message.key, message.value, tuple(map(tuple, message.headers)))
                        for message in messages
                    )
                    missing -= len(messages)
        return found
    return asyncio.run(work())


def read_with_confluent(cluster, partitions):
    partitions = list(partitions)
    consumer = confluent_kafka.Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "unused"})
    beginning = confluent_kafka.OFFSET_BEGINNING
    ends = {}
    for partition in partitions:
        place = confluent_kafka.TopicPartition(TOPIC, partition)
        ends[partition] = consumer.get_watermark_offsets(place, timeout=60)[1]
    consumer.assign([confluent_kafka.TopicPartition(TOPIC, partition, beginning) for partition in partitions])
    found = {partition: [] for partition in partitions}
    missing = sum(ends.values())
    quiet_since = time.monotonic()
    while missing > 0:
        messages = consumer.consume(1000, timeout=1)
        for message in messages:
            assert message.error() is None, message.error()
            found[message.partition()].append(
                (message.offset(), message.key(), message.value(), tuple(message.headers() or ()))
            )
        missing -= len(messages)
        if messages:
            quiet_since = time.monotonic()
        assert time.monotonic() - quiet_since < 60, f"{missing} records did not come"
    consumer.close()
    return found


def by_sender(found):
    """Splits what was read by who sent it, checking that offsets have no gap."""
    parts = {}
    for partition, records in found.items():
        assert [record[0] for record in records] == list(range(len(records))), f"offsets of partition {partition}"
        for _, key, value, headers in records:
            parts.setdefault((dict(headers)["sender"].decode(), partition), []).append((key, value, headers))
    return parts


def check_same(wanted, got, sender, partition):
    assert len(got) == len(wanted), f"{sender} sent {len(wanted)} records to partition {partition}"
    for position, (one, other) in enumerate(zip(wanted, got)):
        # Not left to assert: a difference of megabytes would be printed in full.
        if one != other:
            pytest.fail(f"{sender}'s record {position} of partition {partition} differs: {one[0]!r} {other[0]!r}")


@pytest.mark.timeout(SECONDS_MAX)
def test_real_files_survive_crashes_and_come_back_whole(cluster):
    start = time.monotonic()
    sent = Input()
    assert sum(sent.sizes.values()) >= SOURCE_BYTES_MIN, sent.sizes
    create_topic(cluster.bootstrap, TOPIC, partitions=PARTITIONS)
    confluent = ConfluentSender(cluster)
    kcats = [KcatSender(cluster, codec, lines) for codec, lines in sent.kcat_lines.items()]
    try:
        half = len(sent.confluent) // 2
        confluent.send(sent.confluent[:half])
        confluent.wait_for_some()
        assert all(kcat.half_fed.wait(60) for kcat in kcats)
        cluster.kill("broker")
        cluster.kill("controller", 2)
        for kcat in kcats:
            kcat.go_on.set()
        confluent.send(sent.confluent[half:half + 1000])
        cluster.start("broker")
        cluster.start("controller", 2)
        confluent.send(sent.confluent[half + 1000:])
        confluent.finish()
    finally:
        for kcat in kcats:
            kcat.finish()

    # What a kcat that was cut off has left is a beginning of what it was fed. Its user sends the rest.
    left = by_sender(read_with_confluent(cluster, map(kcat_partition, CODECS)))
    rest = {}
    for codec, lines in sent.kcat_lines.items():
        sender, partition = f"kcat-{codec}", kcat_partition(codec)
        arrived = [value for _, value, _ in left.get((sender, partition), [])]
        assert arrived == lines[:len(arrived)], f"{sender} left something else than a beginning of its lines"
        rest[codec] = lines[len(arrived):]
    send_with_kcat(cluster, {codec: lines for codec, lines in rest.items() if lines})
    produced = time.monotonic()
    print(f"{sent.sizes} bytes, {len(sent.confluent)} records by confluent, sent in {produced - start:.1f} s")

    wanted = sent.expected()
    from_aiokafka = by_sender(read_with_aiokafka(cluster))
    assert from_aiokafka.keys() == {place for place, records in wanted.items() if records}
    for (sender, partition), records in wanted.items():
        check_same(records, from_aiokafka.get((sender, partition), []), sender, partition)
    # Confluent's client shares its library with kcat and still decodes on its own path: kcat's partitions once more through it.
    from_confluent = by_sender(read_with_confluent(cluster, map(kcat_partition, CODECS)))
    for codec in CODECS:
        place = (f"kcat-{codec}", kcat_partition(codec))
        check_same(wanted[place], from_confluent.get(place, []), *place)
    print(f"read back in {time.monotonic() - produced:.1f} s")
