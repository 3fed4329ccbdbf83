"""A short run of the soak: memory within its bound, honest clients served, nothing dropped. `scripts/soak` runs it for long."""

import soak

SECONDS = 20
SHARDS_MAX = 2


def test_honest_clients_are_served_beside_hostile_ones_within_bounded_memory(cluster):
    pid = cluster.pid()
    seen = soak.Soak(cluster).run(SECONDS)
    assert not seen.failures(), seen.failures()
    assert cluster.is_running() and cluster.pid() == pid
    assert len(seen.done()) >= 5, f"hostile clients of most kinds came through: {seen.done()}"
    assert all(client.seconds for client in seen.honest)
    assert max(seen.resident()) < soak.memory_bound(seen.before, SHARDS_MAX)
