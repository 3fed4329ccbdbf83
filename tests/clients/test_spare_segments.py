"""Segment files prepared ahead of need, and freed ones used again, under a real broker that is killed again and again."""

import time

import pytest

from cluster import Cluster, wait_until
from libraries import create_topic
from test_crash import PARTITIONS, Load, check_acknowledged_are_there, check_each_once_and_in_order, read_all

SPARES = 3
KILLS = 6


@pytest.fixture(scope="module")
def cluster():
    """A broker that keeps a few small files prepared."""
    started = Cluster(controllers=1)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MILLRACE_SPARE_SEGMENTS", str(SPARES))
        environment.setenv("MILLRACE_SPARE_SEGMENT_MIB", "1")
        try:
            started.run()
            yield started
            started.stop()
        finally:
            started.remove()


def prepared(cluster):
    """Files that are ready, over all shards."""
    lines = (cluster.http("broker", 1, "/metrics") or "").splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("millrace_spare_segments{"))


def spare_files(cluster):
    return sorted((cluster.data / "broker-1" / "spare").glob("*/*.spare"))


def all_prepared(cluster):
    return prepared(cluster) == SPARES


def test_a_partition_takes_a_prepared_file_and_another_is_made(cluster, topic):
    wait_until(lambda: all_prepared(cluster), "prepared segments")
    before = spare_files(cluster)
    assert len(before) == SPARES and all(file.stat().st_size == 1 << 20 for file in before)
    create_topic(cluster.bootstrap, topic, partitions=PARTITIONS)
    load = Load(cluster, topic, idempotent=True)
    load.wait_for_more()
    wait_until(lambda: not set(before) & set(spare_files(cluster)), "the files to be taken")
    load.stop()
    wait_until(lambda: all_prepared(cluster), "new ones")
    check_each_once_and_in_order(load, read_all(cluster, topic))


def test_prepared_files_that_somebody_removed_are_done_without(cluster, topic):
    wait_until(lambda: all_prepared(cluster), "prepared segments")
    for file in spare_files(cluster):
        file.unlink()
    create_topic(cluster.bootstrap, topic, partitions=PARTITIONS)
    load = Load(cluster, topic, idempotent=True)
    load.wait_for_more()
    load.stop()
    check_each_once_and_in_order(load, read_all(cluster, topic))


def test_kills_while_files_are_taken_and_freed_lose_nothing(cluster, topic):
    # Small segments of which few are kept would leave nothing to compare with, so a second topic rolls and frees them.
    create_topic(cluster.bootstrap, topic, partitions=PARTITIONS)
    churn = f"{topic}-churn"
    create_topic(
        cluster.bootstrap, churn, partitions=PARTITIONS, segment_bytes=1 << 20, retention_bytes=1 << 20
    )
    kept = Load(cluster, topic, idempotent=True)
    freed = Load(cluster, churn, idempotent=True, padding_bytes=20_000)
    for _ in range(KILLS):
        time.sleep(0.5)
        cluster.kill("broker")
        cluster.start("broker")
        for load in (kept, freed):
            load.wait_for_more()
    for load in (kept, freed):
        load.stop()
    found = read_all(cluster, topic)
    check_acknowledged_are_there(kept, found)
    check_each_once_and_in_order(kept, found)


def test_files_of_shards_that_there_no_longer_are_go(cluster):
    of_none = cluster.data / "broker-1" / "spare" / "300"
    cluster.kill("broker")
    of_none.mkdir()
    (of_none / "0.spare").write_bytes(bytes(4096))
    cluster.start("broker")
    wait_until(lambda: not of_none.exists(), "the files of a shard that is not there to go")
    wait_until(lambda: all_prepared(cluster), "those of the others to be there")
