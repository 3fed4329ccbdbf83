"""What `scripts/soak` runs: hostile clients beside honest ones in turns with quiet times, and a report at the end."""

import argparse
import statistics
import sys

import soak
from cluster import Cluster

QUIET_SECONDS = 10
SHARDS_MAX = 2
MIB = 1 << 20


def main():
    options = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--clients", type=int, default=8, help="hostile clients at a time [default: 8]")
    options = options.parse_args()
    cluster = Cluster()
    try:
        cluster.run()
        seen = soak.soak(cluster, options.minutes * 60, options.clients, QUIET_SECONDS, options.seed)
        running = cluster.is_running()
    finally:
        if (cluster.data / "cluster.env").exists():
            cluster.stop()
        cluster.remove()
    sys.exit(report(seen, running))


def report(seen, running):
    waits = {"with": [], "without": []}
    for kind, begin, end in seen["phases"]:
        for client in seen["honest"]:
            waits[kind] += client.waited(begin, end)
    for kind, seconds in waits.items():
        print(f"{kind:8} hostile clients: {len(seconds)} rounds of produce and fetch, {percentiles(seconds)}")
    bound = soak.memory_bound(seen["before"], SHARDS_MAX)
    half = len(seen["samples"]) // 2
    first, second = max(seen["samples"][:half], default=0), max(seen["samples"][half:], default=0)
    print(f"memory: {seen['before'] / MIB:.0f} MiB before, at most {seen['most'] / MIB:.0f}, bound {bound / MIB:.0f};", end=" ")
    print(f"at most {first / MIB:.0f} in the first half and {second / MIB:.0f} in the second")
    print("done:", ", ".join(f"{name} {count}" for name, count in sorted(seen["done"].items())))
    faults = [str(failure) for failure in seen["failures"]]
    if not running:
        faults.append("the broker did not stay")
    if seen["most"] > bound:
        faults.append("more memory than its bound")
    print("failed: " + "; ".join(faults) if faults else "all honest clients were served")
    return 1 if faults else 0


def percentiles(seconds):
    if len(seconds) < 100:
        return "too few to say"
    cuts = statistics.quantiles(seconds, n=100)
    return f"p50 {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms, at most {max(seconds) * 1000:.0f} ms"


if __name__ == "__main__":
    main()
