"""What an operator relies on: metrics that Prometheus takes, and messages that say what is wrong."""

import asyncio
import subprocess
import time

import aiokafka
import aiokafka.errors
import confluent_kafka
import kafka
import kafka.errors
import pytest

from libraries import LIBRARIES, Record, create_topic

# What every Prometheus client library shows of its process.
PROCESS = {
    "process_cpu_seconds_total": "counter", "process_resident_memory_bytes": "gauge", "process_virtual_memory_bytes": "gauge",
    "process_open_fds": "gauge", "process_max_fds": "gauge", "process_threads": "gauge", "process_start_time_seconds": "gauge",
    "millrace_build_info": "gauge",
}


def page(cluster, kind):
    """A process's metrics: the text, the type of each family, and each sample's value."""
    text = cluster.http(kind, 1, "/metrics")
    lines = text.splitlines()
    types = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE"))
    values = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}
    return text, types, values


@pytest.mark.parametrize("kind", ["broker", "controller"])
def test_prometheus_finds_no_fault_with_a_page(cluster, topic, kind):
    create_topic(cluster.bootstrap, topic)
    LIBRARIES["confluent-kafka"].produce(cluster.bootstrap, topic, [Record(b"one")])
    text, _, _ = page(cluster, kind)
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.parametrize("kind", ["broker", "controller"])
def test_a_process_shows_what_it_costs(cluster, kind):
    _, types, values = page(cluster, kind)
    assert {name: types.get(name) for name in PROCESS} == PROCESS
    assert 0.5 < values["process_resident_memory_bytes"] / cluster.resident_bytes(kind) < 2
    assert 0 < values["process_open_fds"] < values["process_max_fds"]
    assert 0 < time.time() - values["process_start_time_seconds"] < 600
    assert [name for name in values if name.startswith("millrace_build_info{version=")]


def test_what_only_grows_is_a_counter(cluster):
    _, types, values = page(cluster, "broker")
    for name in ("millrace_ring_enters_total", "millrace_shard_allocations_total"):
        assert types[name] == "counter"
    time.sleep(1.5)
    _, _, later = page(cluster, "broker")
    enters = [name for name in values if name.startswith("millrace_ring_enters_total{")]
    assert enters and all(later[name] > values[name] for name in enters)


def test_transactions_are_refused_in_words(cluster):
    """Each client ends at once, and what it shows says that there are no transactions, where it shows what a broker says."""
    started = time.monotonic()
    producer = confluent_kafka.Producer({"bootstrap.servers": cluster.bootstrap, "transactional.id": "payments"})
    with pytest.raises(confluent_kafka.KafkaException, match="Transactions are not available on this cluster"):
        producer.init_transactions(30)
    producer = kafka.KafkaProducer(bootstrap_servers=cluster.bootstrap, transactional_id="payments", max_block_ms=30_000)
    with pytest.raises(kafka.errors.KafkaError, match="UnsupportedVersion"):
        producer.init_transactions()
    producer.close(timeout=1)

    async def work():
        producer = aiokafka.AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, transactional_id="payments")
        try:
            await producer.start()
        finally:
            await producer.stop()
    with pytest.raises(aiokafka.errors.KafkaError, match="UnsupportedVersion"):
        asyncio.run(asyncio.wait_for(work(), 30))
    assert time.monotonic() - started < 30, "none asked until its patience ended"


def test_check_takes_the_settings_behind_its_name_and_fails_where_no_broker_could_run(cluster, tmp_path):
    broker = cluster.binary("millrace-broker")
    for arguments in (["check", "--data", tmp_path / "new"], ["--data", tmp_path / "new", "check"]):
        checked = subprocess.run([broker, *arguments], capture_output=True, text=True, timeout=60)
        assert checked.returncode == 0, checked.stderr
        assert f"{tmp_path / 'new'}: " in checked.stdout
    (tmp_path / "file").write_text("in the way")
    checked = subprocess.run([broker, "check", "--data", tmp_path / "file" / "data"], capture_output=True, text=True, timeout=60)
    assert checked.returncode != 0 and len(checked.stderr.splitlines()) == 1, checked
