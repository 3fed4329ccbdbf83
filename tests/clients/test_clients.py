"""Unmodified Kafka clients against a real cluster, with their defaults: metadata, produce, fetch, admin, offsets."""

import asyncio
import json
import time

import aiokafka
import confluent_kafka
import confluent_kafka.admin
import kafka
import kafka.admin
import kafka.errors
import pytest

from cluster import wait_until
from libraries import LIBRARIES, Record, create_topic, kcat

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]

every_library = pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)
every_codec = pytest.mark.parametrize("codec", CODECS)
libraries_with_codecs = pytest.mark.parametrize(
    "library", [LIBRARIES[name] for name in ("confluent-kafka", "kafka-python", "aiokafka")], ids=lambda one: one.name
)


def plain_records(count=50):
    return [Record(f"value {number}".encode(), f"key {number % 7}".encode()) for number in range(count)]


@every_library
def test_metadata_names_the_broker_and_the_partitions(cluster, topic, library):
    create_topic(cluster.bootstrap, topic, partitions=3)
    assert library.partitions(cluster.bootstrap, topic) == {0, 1, 2}
    # Some clients say 127.0.0.1, some what it resolves to; the port tells.
    assert {name.rsplit(":", 1)[1] for name in library.brokers(cluster.bootstrap)} == {str(cluster.port)}


@every_library
def test_what_one_client_produces_every_client_fetches(cluster, topic, library):
    create_topic(cluster.bootstrap, topic)
    records = plain_records()
    library.produce(cluster.bootstrap, topic, records)
    for reader in LIBRARIES.values():
        fetched = reader.fetch(cluster.bootstrap, topic, len(records))
        assert fetched == records, reader.name
        assert [record.offset for record in fetched] == list(range(len(records))), reader.name


@every_codec
@libraries_with_codecs
def test_every_codec_passes_through(cluster, topic, library, codec):
    create_topic(cluster.bootstrap, topic)
    records = [Record(f"{number} ".encode() * 200, b"k") for number in range(200)]
    option = None if codec == "none" and library.name != "confluent-kafka" else codec
    library.produce(cluster.bootstrap, topic, records, compression_type=option)
    for reader in LIBRARIES.values():
        assert reader.fetch(cluster.bootstrap, topic, len(records)) == records, reader.name


@libraries_with_codecs
def test_keys_headers_nulls_and_timestamps_come_back_as_sent(cluster, topic, library):
    create_topic(cluster.bootstrap, topic, retention_ms=-1)
    stamp = 1_600_000_000_000
    records = [
        Record(b"value", b"key", (("name", b"content"),), stamp),
        Record(b"", b"", (("empty", b""),), stamp + 1),
        Record(None, b"tombstone", (), stamp + 2),
        Record(b"no key", None, (("twice", b"1"), ("twice", b"2")), stamp + 3),
        Record(bytes(range(256)), bytes(range(255, -1, -1)), (("bytes", bytes(range(256))),), stamp - 5),
    ]
    library.produce(cluster.bootstrap, topic, records)
    for name in ("confluent-kafka", "kafka-python", "aiokafka"):
        fetched = LIBRARIES[name].fetch(cluster.bootstrap, topic, len(records))
        assert fetched == records, name
        assert [record.timestamp for record in fetched] == [record.timestamp for record in records], name


def test_kcat_reads_headers_and_null_values(cluster, topic):
    create_topic(cluster.bootstrap, topic)
    kcat("-P", "-b", cluster.bootstrap, "-t", topic, "-K", ":", "-Z", "-H", "a=1", "-H", "b=2", stdin=b"key:\nkey:value\n")
    fetched = LIBRARIES["kcat"].fetch(cluster.bootstrap, topic, 2)
    assert fetched == [Record(None, b"key", (("a", b"1"), ("b", b"2"))), Record(b"value", b"key", (("a", b"1"), ("b", b"2")))]


def test_a_message_of_a_megabyte(cluster, topic):
    create_topic(cluster.bootstrap, topic)
    value = bytes(range(256)) * 4000
    LIBRARIES["confluent-kafka"].produce(cluster.bootstrap, topic, [Record(value)], message_max_bytes=1_048_576)
    LIBRARIES["kafka-python"].produce(cluster.bootstrap, topic, [Record(value)])
    LIBRARIES["aiokafka"].produce(cluster.bootstrap, topic, [Record(value)])
    for name in ("confluent-kafka", "kafka-python", "aiokafka"):
        assert LIBRARIES[name].fetch(cluster.bootstrap, topic, 3) == [Record(value)] * 3, name


def test_a_message_over_the_topics_limit_is_refused(cluster, topic):
    create_topic(cluster.bootstrap, topic, max_message_bytes=10_000)
    # An idempotent producer of this library does not go on after such an error.
    producer = kafka.KafkaProducer(bootstrap_servers=cluster.bootstrap, enable_idempotence=False)
    with pytest.raises(kafka.errors.MessageSizeTooLargeError):
        producer.send(topic, bytes(20_000)).get(60)
    assert producer.send(topic, bytes(5_000)).get(60).offset == 0
    producer.close()


@every_library
def test_a_topic_is_created_by_its_first_use(cluster, topic, library):
    records = plain_records(3)
    library.produce(cluster.bootstrap, topic, records)
    assert library.fetch(cluster.bootstrap, topic, 3) == records


@pytest.mark.parametrize("acks", [0, 1, "all"])
def test_every_level_of_acknowledgement(cluster, topic, acks):
    create_topic(cluster.bootstrap, topic)
    records = plain_records(20)
    LIBRARIES["kafka-python"].produce(cluster.bootstrap, topic, records, acks=acks, enable_idempotence=False)
    assert LIBRARIES["confluent-kafka"].fetch(cluster.bootstrap, topic, 20) == records


@libraries_with_codecs
def test_an_idempotent_producer(cluster, topic, library):
    create_topic(cluster.bootstrap, topic)
    records = plain_records(500)
    library.produce(cluster.bootstrap, topic, records, enable_idempotence=True)
    # A second producer has an identity of its own and starts again at sequence 0.
    library.produce(cluster.bootstrap, topic, records, enable_idempotence=True)
    assert LIBRARIES["kcat"].fetch(cluster.bootstrap, topic, 1000) == records * 2


def test_partitions_are_apart(cluster, topic):
    create_topic(cluster.bootstrap, topic, partitions=4)
    for partition in range(4):
        LIBRARIES["confluent-kafka"].produce(cluster.bootstrap, topic, [Record(b"%d" % partition)], partition=partition)
    for partition in range(4):
        fetched = LIBRARIES["aiokafka"].fetch(cluster.bootstrap, topic, 1, partition=partition)
        assert fetched == [Record(b"%d" % partition)]


def test_a_waiting_consumer_gets_what_arrives_later(cluster, topic):
    create_topic(cluster.bootstrap, topic)

    async def work():
        place = aiokafka.TopicPartition(topic, 0)
        async with aiokafka.AIOKafkaConsumer(bootstrap_servers=cluster.bootstrap) as consumer:
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            waiting = asyncio.create_task(consumer.getone())
            await asyncio.sleep(1.5)
            assert not waiting.done()
            async with aiokafka.AIOKafkaProducer(bootstrap_servers=cluster.bootstrap) as producer:
                await producer.send_and_wait(topic, b"late")
            return (await asyncio.wait_for(waiting, 60)).value

    assert asyncio.run(work()) == b"late"


# Admin clients.


def test_confluents_admin_client(cluster, topic):
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": cluster.bootstrap})
    new_topic = confluent_kafka.admin.NewTopic(topic, 2, 1, config={"retention.ms": "123456"})
    admin.create_topics([new_topic])[topic].result(60)
    with pytest.raises(confluent_kafka.KafkaException) as again:
        admin.create_topics([new_topic])[topic].result(60)
    assert again.value.args[0].code() == confluent_kafka.KafkaError.TOPIC_ALREADY_EXISTS

    resource = confluent_kafka.admin.ConfigResource("topic", topic)
    configs = admin.describe_configs([resource])[resource].result(60)
    assert configs["retention.ms"].value == "123456"
    assert configs["cleanup.policy"].value == "delete"

    change = confluent_kafka.admin.ConfigEntry(
        "retention.ms", "654321", incremental_operation=confluent_kafka.admin.AlterConfigOpType.SET
    )
    changed = confluent_kafka.admin.ConfigResource("topic", topic, incremental_configs=[change])
    admin.incremental_alter_configs([changed])[changed].result(60)
    wait_until(
        lambda: admin.describe_configs([resource])[resource].result(60)["retention.ms"].value == "654321",
        "the changed config",
    )
    wrong = confluent_kafka.admin.ConfigResource("topic", topic, incremental_configs=[
        confluent_kafka.admin.ConfigEntry(
            "retention.ms", "not a number", incremental_operation=confluent_kafka.admin.AlterConfigOpType.SET
        )
    ])
    with pytest.raises(confluent_kafka.KafkaException):
        admin.incremental_alter_configs([wrong])[wrong].result(60)

    admin.create_partitions([confluent_kafka.admin.NewPartitions(topic, 5)])[topic].result(60)
    wait_until(lambda: len(admin.list_topics(topic, timeout=30).topics[topic].partitions) == 5, "five partitions")
    with pytest.raises(confluent_kafka.KafkaException):
        admin.create_partitions([confluent_kafka.admin.NewPartitions(topic, 2)])[topic].result(60)

    described = admin.describe_cluster().result(60)
    assert [node.port for node in described.nodes] == [cluster.port]

    admin.delete_topics([topic])[topic].result(60)
    wait_until(lambda: topic not in admin.list_topics(timeout=30).topics, "the topic to be gone")
    with pytest.raises(confluent_kafka.KafkaException):
        admin.delete_topics([topic])[topic].result(60)


def test_kafka_pythons_admin_client(cluster, topic):
    admin = kafka.KafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    options = {"num_partitions": 2, "replication_factor": 1, "configs": {"segment.bytes": "1048576"}}
    admin.create_topics({topic: options}, wait_for_metadata=True)
    with pytest.raises(kafka.errors.TopicAlreadyExistsError):
        admin.create_topics({topic: options})
    assert topic in admin.list_topics()

    def configs():
        resource = kafka.admin.ConfigResource("TOPIC", topic)
        described = admin.describe_configs([resource], config_filter="all")
        (by_name,) = described.values()
        return by_name[topic]

    assert configs()["segment.bytes"]["value"] == "1048576"
    for incremental, value in ((True, "2097152"), (False, "4194304")):
        change = kafka.admin.ConfigResource("TOPIC", topic, {"segment.bytes": value})
        admin.alter_configs([change], incremental=incremental)
        wait_until(lambda: configs()["segment.bytes"]["value"] == value, "the changed config")

    admin.create_partitions({topic: 4})
    wait_until(lambda: len(admin.describe_topics([topic])[0]["partitions"]) == 4, "four partitions")
    admin.delete_topics([topic])
    wait_until(lambda: topic not in admin.list_topics(), "the topic to be gone")
    admin.close()


def test_how_long_a_connection_may_be_idle_is_shown_as_kafka_shows_it(cluster):
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": cluster.bootstrap})
    broker = confluent_kafka.admin.ConfigResource("broker", "1")
    shown = admin.describe_configs([broker])[broker].result(60)["connections.max.idle.ms"]
    assert (shown.value, shown.is_read_only, shown.is_default, shown.is_sensitive) == ("600000", True, True, False)
    assert list(shown.synonyms) == ["connections.max.idle.ms"]
    change = confluent_kafka.admin.ConfigEntry(
        "connections.max.idle.ms", "5000", incremental_operation=confluent_kafka.admin.AlterConfigOpType.SET
    )
    changed = confluent_kafka.admin.ConfigResource("broker", "1", incremental_configs=[change])
    with pytest.raises(confluent_kafka.KafkaException, match="Cannot update these configs dynamically") as refused:
        admin.incremental_alter_configs([changed])[changed].result(60)
    assert refused.value.args[0].code() == confluent_kafka.KafkaError.INVALID_REQUEST


@pytest.mark.parametrize("options, error", [
    ({"num_partitions": 1, "replication_factor": 2}, kafka.errors.InvalidReplicationFactorError),
    ({"num_partitions": 0, "replication_factor": 1}, kafka.errors.InvalidPartitionsError),
    ({"num_partitions": 1, "configs": {"no.such.config": "1"}}, kafka.errors.InvalidConfigurationError),
    ({"num_partitions": 1, "configs": {"retention.ms": "soon"}}, kafka.errors.InvalidConfigurationError),
])
def test_a_topic_that_cannot_be_is_refused(cluster, topic, options, error):
    admin = kafka.KafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    with pytest.raises(error):
        admin.create_topics({topic: options})
    assert topic not in admin.list_topics()
    admin.close()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "x" * 250])
def test_a_bad_topic_name_is_refused(cluster, name):
    admin = kafka.KafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    with pytest.raises(kafka.errors.InvalidTopicError):
        admin.create_topics({name: {"num_partitions": 1, "replication_factor": 1}})
    admin.close()


def test_a_topic_made_anew_starts_empty(cluster, topic):
    admin = kafka.KafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    for generation in range(3):
        create_topic(cluster.bootstrap, topic)
        records = [Record(b"generation %d" % generation)]
        LIBRARIES["confluent-kafka"].produce(cluster.bootstrap, topic, records)
        fetched = LIBRARIES["confluent-kafka"].fetch(cluster.bootstrap, topic, 1)
        assert fetched == records and fetched[0].offset == 0
        admin.delete_topics([topic])
        wait_until(lambda: topic not in admin.list_topics(), "the topic to be gone")
    admin.close()


# Offsets.


def stamped_topic(cluster, topic):
    """Ten records at 1000, 2000, ... 10000 ms, the largest timestamp at offset 4 (20000 ms)."""
    create_topic(cluster.bootstrap, topic, retention_ms=-1)
    stamps = [1000 * (number + 1) for number in range(10)]
    stamps[4] = 20_000
    records = [Record(b"%d" % stamp, timestamp=stamp) for stamp in stamps]
    LIBRARIES["confluent-kafka"].produce(cluster.bootstrap, topic, records[:5])
    LIBRARIES["confluent-kafka"].produce(cluster.bootstrap, topic, records[5:])


def test_offsets_are_listed_by_every_client(cluster, topic):
    stamped_topic(cluster, topic)
    place = confluent_kafka.TopicPartition(topic, 0)
    consumer = confluent_kafka.Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "unused"})
    assert consumer.get_watermark_offsets(place, timeout=30) == (0, 10)
    (found,) = consumer.offsets_for_times([confluent_kafka.TopicPartition(topic, 0, 2500)], timeout=30)
    assert found.offset == 2
    (end,) = consumer.offsets_for_times([confluent_kafka.TopicPartition(topic, 0, 30_000)], timeout=30)
    assert end.offset == confluent_kafka.OFFSET_END
    consumer.close()

    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": cluster.bootstrap})
    wanted = [
        (confluent_kafka.admin.OffsetSpec.earliest(), 0),
        (confluent_kafka.admin.OffsetSpec.latest(), 10),
        (confluent_kafka.admin.OffsetSpec.max_timestamp(), 4),
        (confluent_kafka.admin.OffsetSpec.for_timestamp(3500), 3),
    ]
    for spec, offset in wanted:
        assert admin.list_offsets({place: spec})[place].result(60).offset == offset

    place = kafka.TopicPartition(topic, 0)
    consumer = kafka.KafkaConsumer(bootstrap_servers=cluster.bootstrap)
    assert consumer.beginning_offsets([place]) == {place: 0}
    assert consumer.end_offsets([place]) == {place: 10}
    found = consumer.offsets_for_times({place: 2500})[place]
    assert (found.offset, found.timestamp) == (2, 3000)
    assert consumer.offsets_for_times({place: 30_000}) == {place: None}
    consumer.close()

    async def work():
        place = aiokafka.TopicPartition(topic, 0)
        async with aiokafka.AIOKafkaConsumer(bootstrap_servers=cluster.bootstrap) as consumer:
            assert await consumer.beginning_offsets([place]) == {place: 0}
            assert await consumer.end_offsets([place]) == {place: 10}
            assert (await consumer.offsets_for_times({place: 2500}))[place].offset == 2
    asyncio.run(work())

    listed = json.loads(kcat("-Q", "-J", "-b", cluster.bootstrap, "-t", f"{topic}:0:2500"))
    assert listed[topic]["0"]["offset"] == 2


def test_a_simple_consumers_offsets_are_kept(cluster, topic):
    create_topic(cluster.bootstrap, topic, partitions=2)
    LIBRARIES["confluent-kafka"].produce(cluster.bootstrap, topic, plain_records(10))

    group = f"{topic}-confluent"
    places = [confluent_kafka.TopicPartition(topic, partition) for partition in range(2)]
    settings = {"bootstrap.servers": cluster.bootstrap, "group.id": group, "enable.auto.commit": False}
    consumer = confluent_kafka.Consumer(settings)
    consumer.assign(places)
    none_yet = consumer.committed(places, timeout=60)
    assert [place.offset for place in none_yet] == [confluent_kafka.OFFSET_INVALID] * 2
    consumer.commit(offsets=[confluent_kafka.TopicPartition(topic, 0, 7)], asynchronous=False)
    consumer.close()
    consumer = confluent_kafka.Consumer(settings)
    assert [place.offset for place in consumer.committed(places, timeout=60)] == [7, confluent_kafka.OFFSET_INVALID]
    consumer.assign(places[:1])
    deadline = time.monotonic() + 60
    message = None
    while message is None and time.monotonic() < deadline:
        message = consumer.poll(1)
    assert message.offset() == 7, "it goes on where the group had committed"
    consumer.close()

    place = kafka.TopicPartition(topic, 0)
    consumer = kafka.KafkaConsumer(
        bootstrap_servers=cluster.bootstrap, group_id=f"{topic}-python", enable_auto_commit=False
    )
    consumer.assign([place])
    assert consumer.committed(place) is None
    consumer.commit({place: kafka.structs.OffsetAndMetadata(5, "a note", -1)})
    assert consumer.committed(place) == 5
    assert consumer.committed(place, metadata=True).metadata == "a note"
    consumer.close()

    async def work():
        place = aiokafka.TopicPartition(topic, 0)
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=cluster.bootstrap, group_id=f"{topic}-aio", enable_auto_commit=False
        )
        async with consumer:
            consumer.assign([place])
            await consumer.commit({place: 3})
            return await consumer.committed(place)
    assert asyncio.run(work()) == 3


def test_an_offset_out_of_range_is_reset_as_the_client_asks(cluster, topic):
    create_topic(cluster.bootstrap, topic)
    LIBRARIES["confluent-kafka"].produce(cluster.bootstrap, topic, plain_records(5))
    consumer = kafka.KafkaConsumer(bootstrap_servers=cluster.bootstrap, auto_offset_reset="earliest")
    place = kafka.TopicPartition(topic, 0)
    consumer.assign([place])
    consumer.seek(place, 1000)
    first = wait_until(lambda: consumer.poll(1000).get(place), "records after the reset")[0]
    assert first.offset == 0
    consumer.close()
