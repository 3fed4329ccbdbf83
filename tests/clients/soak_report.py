"""What `scripts/soak` runs: hostile clients beside honest ones in turns with quiet times, and a report at the end."""

import argparse
import statistics
import sys

import soak
from cluster import Cluster

QUIET_SECONDS = 15
SHARDS_MAX = 2
MIB = 1 << 20

# What is promised: honest clients wait at most so many times as long, in one of a hundred rounds; and what the broker keeps of memory once
# hostile clients have gone does not grow. While they are there it goes up and down with what they happen to do at once, within the bound.
P99_RATIO_MAX = 3
GROWTH_BYTES_MAX = 16 * MIB


def main():
    options = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--clients", type=int, default=8, help="hostile clients at a time [default: 8]")
    options = options.parse_args()
    cluster = Cluster()
    try:
        cluster.run()
        seen = soak.Soak(cluster, options.clients, QUIET_SECONDS, options.seed).run(options.minutes * 60)
        running = cluster.is_running()
    finally:
        if (cluster.data / "cluster.env").exists():
            cluster.stop()
        cluster.remove()
    sys.exit(report(seen, running))


def report(seen, running):
    faults = [*seen.failures(), *report_waits(seen), *report_memory(seen)]
    report_load(seen)
    if seen.refusals():
        faults.append(f"produce was refused {seen.refusals()} times")
    if not running:
        faults.append("the broker did not stay")
    print("failed: " + "; ".join(faults) if faults else "all honest clients were served")
    return 1 if faults else 0


def report_waits(seen):
    p99 = {}
    for kind in ("without", "with"):
        waits = seen.waits(kind)
        if len(waits) < 1000:
            return [f"too few rounds {kind} hostile clients: {len(waits)}"]
        cuts = statistics.quantiles(waits, n=1000)
        p99[kind] = cuts[989]
        shown = ", ".join(f"{name} {cuts[cut] * 1000:.1f}" for name, cut in (("p50", 499), ("p99", 989), ("p99.9", 998)))
        print(f"{kind:8} hostile clients: {len(waits)} rounds of produce and fetch, {shown}, at most {max(waits) * 1000:.0f} ms")
    ratio = p99["with"] / p99["without"]
    print(f"p99 with them is {ratio:.1f} times that without, at most {P99_RATIO_MAX}")
    return ["honest clients waited for too long"] if ratio > P99_RATIO_MAX else []


def report_memory(seen):
    bound = soak.memory_bound(seen.before, SHARDS_MAX, seen.clients)
    most, kept = max(seen.resident(), default=0), seen.kept()
    print(f"memory: {seen.before / MIB:.0f} MiB before, bound {bound / MIB:.0f}, at most {most / MIB:.0f};", end=" ")
    half = len(kept) // 2
    first, second = max(kept[:half], default=0), max(kept[half:], default=0)
    print(f"kept once hostile clients had gone: at most {first / MIB:.0f} in the first half and {second / MIB:.0f} in the second")
    faults = []
    if most > bound:
        faults.append("more memory than its bound")
    if half and second > first + GROWTH_BYTES_MAX:
        faults.append("memory grows")
    return faults


def report_load(seen):
    phases = [phase for phase in seen.phases if phase.kind == "with"]
    seconds = sum(phase.end - phase.begin for phase in phases)
    sent, received = sum(phase.sent for phase in phases), sum(phase.received for phase in phases)
    print(f"hostile clients: {seconds:.0f} s, sent {sent / seconds / MIB:.1f} MiB/s and took {received / seconds / MIB:.1f}")
    print("done:", ", ".join(f"{name} {count}" for name, count in sorted(seen.done().items())))


if __name__ == "__main__":
    main()
