"""SIGKILL of one process after another while clients go on: what was acknowledged is there, once, and in order."""

import itertools
import os
import random
import threading
import time

import confluent_kafka
import kafka
import pytest

from cluster import wait_until
from libraries import LIBRARIES, create_topic

BROKER_KILLS = int(os.environ.get("MILLRACE_KILLS", "20"))
PARTITIONS = 4
DELIVERY_MS_MAX = 240_000


class Load:
    """Produces numbered records in the background until it is stopped, and remembers which ones were acknowledged."""

    def __init__(self, cluster, topic, idempotent, pause=0.002, padding_bytes=100):
        self.topic = topic
        self.acknowledged = {partition: [] for partition in range(PARTITIONS)}
        self.sent = 0
        self.faults = []
        self.pause = pause
        self.padding = bytes(padding_bytes)
        self.producer = confluent_kafka.Producer({
            "bootstrap.servers": cluster.bootstrap, "acks": "all", "enable.idempotence": idempotent,
            "message.timeout.ms": DELIVERY_MS_MAX, "linger.ms": 1, "reconnect.backoff.max.ms": 200,
            # Without an identity per producer only one request in flight keeps the order over retries.
            "max.in.flight": 5 if idempotent else 1,
        })
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        for number in itertools.count():
            if self.stopping.is_set():
                return
            partition = number % PARTITIONS
            try:
                self.producer.produce(
                    self.topic, b"%d" % number + self.padding, partition=partition, on_delivery=self.delivered
                )
                self.sent = number + 1
            except (BufferError, confluent_kafka.KafkaException) as fault:
                self.faults.append(fault)
                return
            self.producer.poll(self.pause)

    def delivered(self, fault, message):
        if fault is not None:
            self.faults.append(fault)
        else:
            self.acknowledged[message.partition()].append((number_of(message.value()), message.offset()))

    def count(self):
        return sum(map(len, self.acknowledged.values()))

    def wait_for_more(self):
        """Until something that was sent after this call has been acknowledged."""
        mark = self.count() + 20
        wait_until(lambda: self.faults or self.count() > mark, "acknowledgements", seconds=120)
        assert not self.faults, self.faults[:3]

    def stop(self):
        self.stopping.set()
        self.thread.join()
        left = self.producer.flush(DELIVERY_MS_MAX / 1000)
        assert left == 0 and not self.faults, f"{left} records undelivered, faults {self.faults[:3]}"


def number_of(value):
    return int(value.rstrip(b"\0"))


def read_all(cluster, topic):
    """The numbers in each partition, in offset order, checking that offsets have no gap."""
    admin = kafka.KafkaConsumer(bootstrap_servers=cluster.bootstrap)
    ends = admin.end_offsets([kafka.TopicPartition(topic, partition) for partition in range(PARTITIONS)])
    admin.close()
    found = {}
    for place, end in ends.items():
        records = LIBRARIES["confluent-kafka"].fetch(cluster.bootstrap, topic, end, place.partition)
        assert [record.offset for record in records] == list(range(end))
        found[place.partition] = [number_of(record.value) for record in records]
    return found


def check_acknowledged_are_there(load, found):
    for partition, acknowledged in load.acknowledged.items():
        everything = set(found[partition])
        for number, offset in acknowledged:
            if offset is None:
                # librdkafka takes a batch for stored when a later one is known to be, and then cannot say where.
                assert number in everything, f"partition {partition} number {number}"
            else:
                assert found[partition][offset] == number, f"partition {partition} offset {offset}"


def check_each_once_and_in_order(load, found):
    for partition, numbers in found.items():
        assert numbers == list(range(partition, load.sent, PARTITIONS)), f"partition {partition}"


@pytest.mark.parametrize("number", [1, 2, 3])
def test_one_controller_less_stops_neither_produce_nor_fetch(cluster, topic, number):
    create_topic(cluster.bootstrap, topic, partitions=PARTITIONS)
    load = Load(cluster, topic, idempotent=True)
    load.wait_for_more()
    cluster.kill("controller", number)
    try:
        load.wait_for_more()
        found = read_all(cluster, topic)
        assert sum(map(len, found.values())) > 0
        load.wait_for_more()
    finally:
        cluster.start("controller", number)
    cluster.wait_ready("controller", number)
    load.stop()
    check_each_once_and_in_order(load, read_all(cluster, topic))


def test_a_new_raft_leader_accepts_a_topic(cluster, topic):
    for attempt in range(3):
        leader = cluster.raft_leader()
        cluster.kill("controller", leader)
        started = time.monotonic()
        try:
            wait_until(lambda: try_to_create(cluster, f"{topic}-{attempt}"), "a topic under the new leader", seconds=90)
            print(f"a topic was created {time.monotonic() - started:.2f} s after the leader was killed")
        finally:
            cluster.start("controller", leader)
        cluster.wait_ready("controller", leader)
        LIBRARIES["confluent-kafka"].partitions(cluster.bootstrap, f"{topic}-{attempt}")


def try_to_create(cluster, topic):
    admin = kafka.KafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    try:
        admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}}, timeout_ms=10_000)
        return True
    except kafka.errors.TopicAlreadyExistsError:
        # An earlier try whose answer was lost.
        return True
    except kafka.errors.KafkaError:
        return False
    finally:
        admin.close()


def test_committed_offsets_survive_the_death_of_every_controller_in_turn(cluster, topic):
    create_topic(cluster.bootstrap, topic)
    consumer = confluent_kafka.Consumer({
        "bootstrap.servers": cluster.bootstrap, "group.id": topic, "enable.auto.commit": False,
    })
    consumer.assign([confluent_kafka.TopicPartition(topic, 0)])
    committed = 0
    for number in (1, 2, 3):
        for _ in range(5):
            commit(consumer, topic, committed + 1)
            committed += 1
        cluster.kill("controller", number)
        try:
            commit(consumer, topic, committed + 1)
            committed += 1
        finally:
            cluster.start("controller", number)
        cluster.wait_ready("controller", number)
        (place,) = consumer.committed([confluent_kafka.TopicPartition(topic, 0)], timeout=60)
        assert place.offset == committed
    consumer.close()


def commit(consumer, topic, offset):
    """Commits, and again if a change of leader came between; a commit is idempotent."""
    def attempt():
        try:
            consumer.commit(offsets=[confluent_kafka.TopicPartition(topic, 0, offset)], asynchronous=False)
            return True
        except confluent_kafka.KafkaException:
            return False
    wait_until(attempt, "a commit to be accepted", seconds=90)


@pytest.mark.timeout(60 + 30 * BROKER_KILLS)
def test_the_broker_killed_again_and_again_loses_nothing(cluster):
    chance = random.Random(BROKER_KILLS)
    create_topic(cluster.bootstrap, "idempotent", partitions=PARTITIONS)
    create_topic(cluster.bootstrap, "plain", partitions=PARTITIONS)
    loads = [Load(cluster, "idempotent", idempotent=True), Load(cluster, "plain", idempotent=False)]
    for load in loads:
        load.wait_for_more()
    for _ in range(BROKER_KILLS):
        time.sleep(chance.uniform(0, 0.5))
        cluster.kill("broker")
        cluster.start("broker")
        for load in loads:
            load.wait_for_more()
    for load in loads:
        load.stop()
    idempotent, plain = (read_all(cluster, load.topic) for load in loads)
    print(f"{BROKER_KILLS} kills, {loads[0].sent} + {loads[1].sent} records")
    check_acknowledged_are_there(loads[0], idempotent)
    check_each_once_and_in_order(loads[0], idempotent)
    # Without idempotence a retry may double a record, and nothing else.
    check_acknowledged_are_there(loads[1], plain)
    for partition, numbers in plain.items():
        assert sorted(set(numbers)) == list(range(partition, loads[1].sent, PARTITIONS))


def test_all_processes_killed_at_once_come_back(cluster, topic):
    create_topic(cluster.bootstrap, topic, partitions=PARTITIONS)
    load = Load(cluster, topic, idempotent=True)
    load.wait_for_more()
    members = [("broker", 1), ("controller", 1), ("controller", 2), ("controller", 3)]
    for kind, number in members:
        cluster.kill(kind, number)
    for kind, number in reversed(members):
        cluster.start(kind, number)
    load.wait_for_more()
    load.stop()
    check_each_once_and_in_order(load, read_all(cluster, topic))
