"""Groups of simple consumers through the tools that list, describe and delete them."""

import pytest
import wire
from confluent_kafka import Consumer, ConsumerGroupState, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from libraries import create_topic

DELETE_GROUPS, OFFSET_DELETE = 42, 47

NON_EXISTENT = {"GROUP_ID_NOT_FOUND": 69, "UNKNOWN_TOPIC_OR_PARTITION": 3, "INVALID_GROUP_ID": 24}

SECONDS = 30


@pytest.fixture
def group(cluster, topic):
    """A group that has committed 5 to partition 0 of the topic and 7 to partition 1."""
    create_topic(cluster.bootstrap, topic, partitions=2)
    name = f"group-of-{topic}"
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": name, "enable.auto.commit": False})
    consumer.commit(offsets=[TopicPartition(topic, 0, 5), TopicPartition(topic, 1, 7)], asynchronous=False)
    consumer.close()
    return name


def committed(cluster, group, topic):
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": group})
    partitions = consumer.committed([TopicPartition(topic, 0), TopicPartition(topic, 1)], timeout=SECONDS)
    consumer.close()
    return [partition.offset for partition in partitions]


def ask(cluster, api, version, body):
    """The answer's body, after its correlation id."""
    with wire.Connection(cluster) as connection:
        answer = connection.exchange(wire.header(api, version) + body)
        return answer.content[answer.position:]


def offset_delete(cluster, group, topic, *partitions):
    partitions = wire.array(*(wire.i32(partition) for partition in partitions))
    topics = wire.array(wire.string(topic) + partitions)
    return ask(cluster, OFFSET_DELETE, 0, wire.string(group) + topics)


def test_a_group_is_listed_and_described_as_empty(cluster, topic, group):
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
    listed = {one.group_id: one for one in admin.list_consumer_groups().result(SECONDS).valid}
    assert listed[group].is_simple_consumer_group
    assert listed[group].state == ConsumerGroupState.EMPTY
    stable = admin.list_consumer_groups(states={ConsumerGroupState.STABLE}).result(SECONDS).valid
    assert group not in [one.group_id for one in stable]
    described = admin.describe_consumer_groups([group])[group].result(SECONDS)
    assert described.state == ConsumerGroupState.EMPTY
    assert described.members == []


def test_a_deleted_group_is_gone_and_may_come_again(cluster, topic, group):
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
    assert committed(cluster, group, topic) == [5, 7]
    admin.delete_consumer_groups([group])[group].result(SECONDS)
    assert committed(cluster, group, topic) == [-1001, -1001]
    assert group not in [one.group_id for one in admin.list_consumer_groups().result(SECONDS).valid]
    with pytest.raises(KafkaException) as refused:
        admin.delete_consumer_groups([group])[group].result(SECONDS)
    assert refused.value.args[0].name() == "GROUP_ID_NOT_FOUND"
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": group})
    consumer.commit(offsets=[TopicPartition(topic, 0, 9)], asynchronous=False)
    consumer.close()
    assert committed(cluster, group, topic) == [9, -1001]


@pytest.mark.parametrize("version", [0, 1])
def test_a_group_named_twice_is_deleted_once(cluster, group, version):
    names = wire.array(*map(wire.string, [group, "no-such-group", group]))
    results = [wire.string(group) + wire.i16(0), wire.string("no-such-group") + wire.i16(NON_EXISTENT["GROUP_ID_NOT_FOUND"])]
    assert ask(cluster, DELETE_GROUPS, version, names) == wire.i32(0) + wire.array(*results)


def test_offsets_are_deleted_partition_by_partition(cluster, topic, group):
    unknown = NON_EXISTENT["UNKNOWN_TOPIC_OR_PARTITION"]
    answer = offset_delete(cluster, group, topic, 1, 2, -1)
    partitions = wire.array(*(wire.i32(index) + wire.i16(code) for index, code in [(1, 0), (2, unknown), (-1, unknown)]))
    assert answer == wire.i16(0) + wire.i32(0) + wire.array(wire.string(topic) + partitions)
    assert committed(cluster, group, topic) == [5, -1001]
    # Nothing is committed there any more, which is as good as deleted.
    again = wire.array(wire.string(topic) + wire.array(wire.i32(1) + wire.i16(0)))
    assert offset_delete(cluster, group, topic, 1) == wire.i16(0) + wire.i32(0) + again


@pytest.mark.parametrize("group, error", [("no-such-group", "GROUP_ID_NOT_FOUND"), ("", "INVALID_GROUP_ID")])
def test_offsets_of_no_group_are_refused_as_a_whole(cluster, topic, group, error):
    create_topic(cluster.bootstrap, topic)
    refused = wire.i16(NON_EXISTENT[error]) + wire.i32(0) + wire.array()
    assert offset_delete(cluster, group, topic, 0) == refused
    # With nothing left to delete, the group is not looked for.
    answer = offset_delete(cluster, group, "no-such-topic", 0)
    unknown = wire.i32(0) + wire.i16(NON_EXISTENT["UNKNOWN_TOPIC_OR_PARTITION"])
    assert answer == wire.i16(0) + wire.i32(0) + wire.array(wire.string("no-such-topic") + wire.array(unknown))
