"""Four Kafka clients behind one small face, each with its own defaults: kcat, confluent-kafka, kafka-python and aiokafka."""

import asyncio
import json
import subprocess
import time
from dataclasses import dataclass, field

import aiokafka
import confluent_kafka
import confluent_kafka.admin
import kafka

FETCH_SECONDS_MAX = 90


@dataclass(frozen=True)
class Record:
    value: bytes | None
    key: bytes | None = None
    headers: tuple = ()
    timestamp: int | None = field(default=None, compare=False)
    offset: int | None = field(default=None, compare=False)


class Kcat:
    """The command-line tool of Debian. Keys and values here are text without tabs or line ends."""

    name = "kcat"

    def partitions(self, bootstrap, topic):
        listed = json.loads(kcat("-L", "-J", "-b", bootstrap, "-t", topic))
        return {partition["partition"] for partition in listed["topics"][0]["partitions"]}

    def brokers(self, bootstrap):
        return {broker["name"] for broker in json.loads(kcat("-L", "-J", "-b", bootstrap))["brokers"]}

    def produce(self, bootstrap, topic, records, partition=0, **options):
        """One run for each set of headers, because headers are kcat's arguments; so a run's records stay together."""
        settings = [part for name, value in options.items() for part in ("-X", f"{name.replace('_', '.')}={value}")]
        runs = []
        for record in records:
            if not runs or runs[-1][0] != record.headers:
                runs.append((record.headers, []))
            runs[-1][1].append((record.key or b"") + b"\t" + (record.value or b""))
        for headers, lines in runs:
            arguments = [part for name, value in headers for part in ("-H", f"{name}={value.decode()}")]
            kcat("-P", "-b", bootstrap, "-t", topic, "-p", partition, "-K", "\t", "-Z", *arguments, *settings,
                 stdin=b"\n".join(lines) + b"\n")

    def fetch(self, bootstrap, topic, count, partition=0):
        lines = kcat("-C", "-q", "-J", "-b", bootstrap, "-t", topic, "-p", partition, "-o", "beginning", "-c", count)
        return [self.record(json.loads(line)) for line in lines.splitlines()]

    @staticmethod
    def record(message):
        def encoded(text):
            return None if text is None else text.encode()
        flat = message.get("headers", [])
        headers = tuple(zip(flat[::2], (encoded(value) for value in flat[1::2])))
        return Record(encoded(message["payload"]), encoded(message["key"]), headers, message["ts"], message["offset"])


class Confluent:
    name = "confluent-kafka"

    def partitions(self, bootstrap, topic):
        listed = confluent_kafka.Producer({"bootstrap.servers": bootstrap}).list_topics(topic, timeout=30)
        return set(listed.topics[topic].partitions)

    def brokers(self, bootstrap):
        listed = confluent_kafka.Producer({"bootstrap.servers": bootstrap}).list_topics(timeout=30)
        return {f"{broker.host}:{broker.port}" for broker in listed.brokers.values()}

    def produce(self, bootstrap, topic, records, partition=0, **options):
        producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap, **dotted(options)})
        faults = []
        for record in records:
            stamp = {} if record.timestamp is None else {"timestamp": record.timestamp}
            producer.produce(
                topic, record.value, record.key, partition, headers=list(record.headers), **stamp,
                on_delivery=lambda fault, _: fault and faults.append(fault),
            )
            producer.poll(0)
        left = producer.flush(FETCH_SECONDS_MAX)
        assert left == 0 and not faults, f"{left} records undelivered, faults {faults[:3]}"

    def fetch(self, bootstrap, topic, count, partition=0):
        consumer = confluent_kafka.Consumer({"bootstrap.servers": bootstrap, "group.id": "unused"})
        consumer.assign([confluent_kafka.TopicPartition(topic, partition, confluent_kafka.OFFSET_BEGINNING)])
        records = []
        deadline = time.monotonic() + FETCH_SECONDS_MAX
        while len(records) < count and time.monotonic() < deadline:
            for message in consumer.consume(count - len(records), timeout=1):
                assert message.error() is None, message.error()
                records.append(Record(
                    message.value(), message.key(), tuple(message.headers() or ()),
                    message.timestamp()[1], message.offset(),
                ))
        consumer.close()
        return records


class KafkaPython:
    name = "kafka-python"

    def partitions(self, bootstrap, topic):
        consumer = kafka.KafkaConsumer(bootstrap_servers=bootstrap)
        partitions = consumer.partitions_for_topic(topic)
        consumer.close()
        return partitions

    def brokers(self, bootstrap):
        admin = kafka.KafkaAdminClient(bootstrap_servers=bootstrap)
        listed = admin.describe_cluster()["brokers"]
        admin.close()
        return {f"{broker['host']}:{broker['port']}" for broker in listed}

    def produce(self, bootstrap, topic, records, partition=0, **options):
        producer = kafka.KafkaProducer(bootstrap_servers=bootstrap, **options)
        sent = [
            producer.send(topic, record.value, record.key, list(record.headers), partition, record.timestamp)
            for record in records
        ]
        producer.flush(FETCH_SECONDS_MAX)
        for delivery in sent:
            delivery.get(FETCH_SECONDS_MAX)
        producer.close()

    def fetch(self, bootstrap, topic, count, partition=0):
        consumer = kafka.KafkaConsumer(bootstrap_servers=bootstrap)
        place = kafka.TopicPartition(topic, partition)
        consumer.assign([place])
        consumer.seek_to_beginning(place)
        records = []
        deadline = time.monotonic() + FETCH_SECONDS_MAX
        while len(records) < count and time.monotonic() < deadline:
            for message in consumer.poll(1000).get(place, []):
                records.append(Record(
                    message.value, message.key, tuple(map(tuple, message.headers)), message.timestamp, message.offset,
                ))
        consumer.close()
        return records[:count]


class AioKafka:
    name = "aiokafka"

    def partitions(self, bootstrap, topic):
        async def work():
            async with aiokafka.AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
                return await producer.partitions_for(topic)
        return set(asyncio.run(work()))

    def brokers(self, bootstrap):
        async def work():
            async with aiokafka.AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
                return {f"{broker.host}:{broker.port}" for broker in producer.client.cluster.brokers()}
        return asyncio.run(work())

    def produce(self, bootstrap, topic, records, partition=0, **options):
        async def work():
            async with aiokafka.AIOKafkaProducer(bootstrap_servers=bootstrap, **options) as producer:
                sent = [
                    await producer.send(
                        topic, record.value, record.key, partition, record.timestamp, list(record.headers),
                    )
                    for record in records
                ]
                await asyncio.wait_for(asyncio.gather(*sent), FETCH_SECONDS_MAX)
        asyncio.run(work())

    def fetch(self, bootstrap, topic, count, partition=0):
        async def work():
            place = aiokafka.TopicPartition(topic, partition)
            records = []
            async with aiokafka.AIOKafkaConsumer(bootstrap_servers=bootstrap) as consumer:
                consumer.assign([place])
                await consumer.seek_to_beginning(place)
                deadline = time.monotonic() + FETCH_SECONDS_MAX
                while len(records) < count and time.monotonic() < deadline:
                    for message in (await consumer.getmany(timeout_ms=1000)).get(place, []):
                        headers = tuple(map(tuple, message.headers))
                        records.append(Record(
                            message.value, message.key, headers, message.timestamp, message.offset,
                        ))
            return records[:count]
        return asyncio.run(work())


LIBRARIES = {library.name: library for library in (Kcat(), Confluent(), KafkaPython(), AioKafka())}


def kcat(*arguments, stdin=None):
    command = ["kcat", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=FETCH_SECONDS_MAX)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.decode(errors='replace')[-2000:]}"
    return done.stdout.decode()


def dotted(options):
    return {name.replace("_", "."): value for name, value in options.items()}


def create_topic(bootstrap, topic, partitions=1, **configs):
    """Creates a topic and returns once the broker leads every partition of it."""
    admin = kafka.KafkaAdminClient(bootstrap_servers=bootstrap)
    settings = {name.replace("_", "."): str(value) for name, value in configs.items()}
    options = {"num_partitions": partitions, "replication_factor": 1, "configs": settings}
    admin.create_topics({topic: options}, timeout_ms=30_000, wait_for_metadata=True)
    admin.close()


def alter_topic(bootstrap, topic, **configs):
    """Changes a topic's configuration."""
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": bootstrap})
    changes = [
        confluent_kafka.admin.ConfigEntry(
            name.replace("_", "."), str(value), incremental_operation=confluent_kafka.admin.AlterConfigOpType.SET
        )
        for name, value in configs.items()
    ]
    changed = confluent_kafka.admin.ConfigResource("topic", topic, incremental_configs=changes)
    admin.incremental_alter_configs([changed])[changed].result(60)
