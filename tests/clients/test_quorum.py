"""The controllers as Kafka's clients see and change them through a broker, and brokers that find controllers by themselves."""

import json
import subprocess
import urllib.request

import kafka
import kafka.admin
import pytest

import wire
from cluster import wait_until
from test_process import as_flags, broker_command, spare_port

DESCRIBE_QUORUM, UNREGISTER_BROKER, ADD_RAFT_VOTER, REMOVE_RAFT_VOTER = 55, 64, 80, 81
BROKER_ID_NOT_REGISTERED = 102
UNKNOWN_TOPIC_OR_PARTITION = 3
INVALID_REQUEST, INCONSISTENT_CLUSTER_ID, DUPLICATE_VOTER, VOTER_NOT_FOUND = 42, 104, 126, 127


@pytest.fixture
def started():
    """Starts programs that do not outlive the test."""
    processes = []

    def start(command, log):
        process = subprocess.Popen(list(map(str, command)), stderr=log.open("a"), stdin=subprocess.DEVNULL)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def controller_address(cluster, number):
    return f"127.0.0.1:{cluster.port + 3000 + number - 1}"


def quorum(cluster, *command):
    secret = ["--secret-file", cluster.data / "secret", "--controllers", controller_address(cluster, 2)]
    done = subprocess.run(
        [cluster.binary("millrace-controller"), "quorum", *command, *secret], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def disk(cluster, number):
    rows = json.loads(quorum(cluster, "status", "--json"))
    return next(row["disk"] for row in rows if row["controller"] == number)


def directory_id(disk):
    return bytes.fromhex("0000000000004000" + "8000" + disk)


def compact(text):
    return bytes([0]) if text is None else bytes([len(text) + 1]) + text.encode()


def ask(cluster, api, body):
    """The error code and message that a request of one of the APIs is answered with that answer with nothing else."""
    request = wire.header(api, 0) + bytes([0]) + body + bytes([0])
    with wire.Connection(cluster) as connection:
        answer = connection.exchange(request)
    assert answer.take("b") == 0, "no tagged fields in the header"
    assert answer.take("i") == 0, "no throttling"
    code, length = answer.take("h"), answer.take("b")
    return code, "" if length == 0 else answer.content[answer.position:answer.position + length - 1].decode()


def add(cluster, number, directory, port, cluster_id=None):
    listener = compact("CONTROLLER") + compact("127.0.0.1") + wire.i16(port) + bytes([0])
    body = compact(cluster_id) + wire.i32(30_000) + wire.i32(number) + directory + bytes([2]) + listener
    return ask(cluster, ADD_RAFT_VOTER, body)


def remove(cluster, number, directory):
    return ask(cluster, REMOVE_RAFT_VOTER, compact(None) + wire.i32(number) + directory)


def describe(cluster, version, topic, partitions):
    partitions = bytes([len(partitions) + 1]) + b"".join(wire.i32(index) + bytes([0]) for index in partitions)
    topics = bytes([2]) + compact(topic) + partitions + bytes([0])
    request = wire.header(DESCRIBE_QUORUM, version) + bytes([0]) + topics + bytes([0])
    with wire.Connection(cluster) as connection:
        answer = connection.exchange(request)
    assert answer.take("b") == 0, "no tagged fields in the header"
    assert answer.take("h") == 0
    return answer


@pytest.mark.parametrize(
    "topic, partitions", [("other", [0]), ("other", [0, 5]), ("__cluster_metadata", [5]), ("__cluster_metadata", [0, 0])]
)
def test_only_the_metadata_has_a_quorum(cluster, topic, partitions):
    answer = describe(cluster, 0, topic, partitions)
    assert answer.take("b") == 2 and answer.take("b") == len(topic) + 1
    answer.position += len(topic)
    assert answer.take("b") == len(partitions) + 1
    for index in partitions:
        assert answer.take("i") == index and answer.take("h") == UNKNOWN_TOPIC_OR_PARTITION
        _leader, _epoch, _high_watermark = answer.take("i"), answer.take("i"), answer.take("q")
        assert [answer.take("b") for _ in range(3)] == [1, 1, 0], "no voters, no observers, no tagged fields"


@pytest.mark.parametrize("version", [0, 1, 2])
def test_the_quorum_is_described_in_every_version(cluster, version):
    answer = describe(cluster, version, "__cluster_metadata", [0])
    assert b"__cluster_metadata" in answer.content
    assert (b"CONTROLLER" in answer.content) == (version == 2)


def test_the_quorum_is_described_and_changed_through_a_broker(cluster, tmp_path, started):
    admin = kafka.KafkaAdminClient(bootstrap_servers=cluster.bootstrap)

    def described():
        answer = admin.describe_metadata_quorum()
        (partition,) = answer["topics"][0]["partitions"]
        return partition, {node["node_id"]: node["listeners"][0]["port"] for node in answer["nodes"]}

    def voters():
        return sorted(voter["replica_id"] for voter in described()[0]["current_voters"])

    partition, ports = described()
    assert partition["error"] is None
    assert partition["leader_id"] == cluster.raft_leader()
    assert ports == {number: cluster.port + 3000 + number - 1 for number in (1, 2, 3)}
    assert partition["observers"] == [] and voters() == [1, 2, 3]
    assert len({str(voter["replica_directory_id"]) for voter in partition["current_voters"]}) == 3
    for voter in partition["current_voters"]:
        assert voter["log_end_offset"] > 0 and voter["last_fetch_timestamp"] > 1_600_000_000_000

    port = spare_port(cluster)
    flags = {
        "id": 4, "listen": f"127.0.0.1:{port}", "join": controller_address(cluster, 1), "data": tmp_path / "4",
        "metrics": f"127.0.0.1:{spare_port(cluster, 600)}", "secret-file": cluster.data / "secret",
    }
    log = tmp_path / "4.log"
    joining = started([cluster.binary("millrace-controller"), "serve", *as_flags(flags)], log)
    wait_until(lambda: "controller started" in log.read_text(), "the new controller")
    own = directory_id((tmp_path / "4" / "identity").read_text().splitlines()[2].removeprefix("disk "))
    other = directory_id(disk(cluster, 1))
    assert add(cluster, 4, own, port, cluster_id="another")[0] == INCONSISTENT_CLUSTER_ID
    assert add(cluster, 4, bytes([7] * 16), port)[0] == INVALID_REQUEST
    code, why = add(cluster, 4, other, port)
    assert code == INVALID_REQUEST and "has disk" in why
    code, why = add(cluster, 5, own, port)
    assert code == INVALID_REQUEST and "is controller 4, not 5" in why
    assert voters() == [1, 2, 3]
    assert add(cluster, 4, own, port) == (0, "")
    assert voters() == [1, 2, 3, 4] and described()[1][4] == port
    assert add(cluster, 4, own, port)[0] == DUPLICATE_VOTER

    assert remove(cluster, 9, own)[0] == VOTER_NOT_FOUND
    assert remove(cluster, 4, other)[0] == VOTER_NOT_FOUND
    assert remove(cluster, -1, other)[0] == VOTER_NOT_FOUND
    assert voters() == [1, 2, 3, 4]
    assert remove(cluster, 4, own) == (0, "")
    assert voters() == [1, 2, 3]
    assert joining.wait(30) == 1
    assert "was taken out of the quorum" in log.read_text().splitlines()[-1]
    admin.close()


def test_a_broker_finds_controllers_that_it_was_not_told_of(cluster, tmp_path, started):
    metrics = spare_port(cluster, 700)
    listen = f"127.0.0.1:{spare_port(cluster)}"
    flags = {"controllers": controller_address(cluster, 1), "metrics": f"127.0.0.1:{metrics}"}
    command = broker_command(cluster, tmp_path / "data", listen, **flags)
    broker = started(command, tmp_path / "broker.log")
    known = tmp_path / "data" / "controllers"
    everyone = sorted(controller_address(cluster, number) for number in (1, 2, 3))
    wait_until(lambda: known.exists() and sorted(known.read_text().split()) == everyone, "the broker to learn them")
    cluster.kill("controller", 1)
    try:
        # It is registered again with the others alone, before and after a restart.
        for _ in range(2):
            wait_until(lambda: is_ready(metrics), "the broker to be in service")
            admin = kafka.KafkaAdminClient(bootstrap_servers=listen)
            assert 77 in live_brokers(admin)
            name = f"found-{broker.pid}"
            admin.create_topics([kafka.admin.NewTopic(name, 1, 1)])
            assert name in admin.list_topics()
            admin.close()
            broker.kill()
            broker.wait()
            broker = started(command, tmp_path / "broker.log")
    finally:
        cluster.start("controller", 1)


def test_a_broker_that_is_gone_is_unregistered_and_has_its_partitions_again_if_it_returns(cluster, tmp_path, started):
    listen, metrics = f"127.0.0.1:{spare_port(cluster)}", spare_port(cluster, 700)
    flags = {"controllers": controller_address(cluster, 1), "metrics": f"127.0.0.1:{metrics}"}
    command = broker_command(cluster, tmp_path / "data", listen, **flags)
    broker = started(command, tmp_path / "broker.log")
    wait_until(lambda: is_ready(metrics), "the broker to be in service")
    admin = kafka.KafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    topic = f"of-broker-77-{broker.pid}"
    admin.create_topics([kafka.admin.NewTopic(topic, -1, -1, replica_assignments={0: [77]})])
    producer = kafka.KafkaProducer(bootstrap_servers=cluster.bootstrap)
    producer.send(topic, b"kept", partition=0).get(30)
    producer.close()

    def unregister(number):
        return ask(cluster, UNREGISTER_BROKER, wire.i32(number))

    code, why = unregister(77)
    assert code == INVALID_REQUEST and "is alive" in why
    assert unregister(78)[0] == BROKER_ID_NOT_REGISTERED
    broker.kill()
    broker.wait()
    wait_until(lambda: unregister(77) == (0, ""), "the broker's session to end")
    assert unregister(77)[0] == BROKER_ID_NOT_REGISTERED
    (described,) = admin.describe_topics([topic])
    (partition,) = described["partitions"]
    assert partition["leader_id"] == -1 and partition["replica_nodes"] == [77] and partition["offline_replicas"] == [77]
    assert 77 not in live_brokers(admin)

    started(command, tmp_path / "broker.log")
    wait_until(lambda: is_ready(metrics), "the broker to be back")
    consumer = kafka.KafkaConsumer(topic, bootstrap_servers=cluster.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=30_000)
    assert next(consumer).value == b"kept"
    consumer.close()
    admin.delete_topics([topic])
    admin.close()


def live_brokers(admin):
    return {broker["broker_id"] for broker in admin.describe_cluster()["brokers"]}


def is_ready(metrics_port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/readyz", timeout=5):
            return True
    except OSError:
        return False
