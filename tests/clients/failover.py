"""How long a failure keeps a cluster from its work, as its clients see it. `scripts/chaos failover` prints it.

Nothing here is asserted in a test: the figures depend on the machine, which should have nothing else to do."""

import os
import signal
import statistics
import time

import wire
from cluster import Cluster, wait_until

BROKERS = 3
PARTITIONS = 6
LOOK_SECONDS = 0.005
WAIT_SECONDS_MAX = 30
# For so long a stopped controller stays stopped: a broker that it alone heard would be fenced meanwhile.
STOPPED_SECONDS = 2.5


class Failure:
    """One kind of failure, made again and again."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.faults = []

    def settle(self):
        for kind, count in (("controller", self.cluster.controllers), ("broker", self.cluster.brokers)):
            for number in range(1, count + 1):
                self.cluster.wait_ready(kind, number)
        # The next failure comes at any moment between two heartbeats.
        time.sleep(0.5 + time.time() % 0.3)


class LeaderKilled(Failure):
    """SIGKILL of the controller that leads, to an acknowledged CreateTopics."""

    promised = {"median": 0.6, "worst": 1.0}

    def once(self, number):
        leader = self.cluster.raft_leader()
        begun = time.monotonic()
        os.kill(self.cluster.pid("controller", leader), signal.SIGKILL)
        create(self.cluster, f"after-kill-{number}")
        seconds = time.monotonic() - begun
        self.cluster.start("controller", leader)
        return seconds


class LeaderStopped(Failure):
    """SIGSTOP of the controller that leads, to an acknowledged CreateTopics."""

    promised = {"worst": 1.5}

    def once(self, number):
        leader = self.cluster.raft_leader()
        fences = self.fences()
        pid = self.cluster.pid("controller", leader)
        begun = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        try:
            create(self.cluster, f"after-stop-{number}")
            seconds = time.monotonic() - begun
            time.sleep(max(0, STOPPED_SECONDS - seconds))
        finally:
            os.kill(pid, signal.SIGCONT)
        self.settle()
        if self.fences() > fences:
            self.faults.append(f"try {number}: a broker was fenced")
        return seconds

    def fences(self):
        logs = (self.cluster.data / "logs").glob("controller-*.log")
        return sum(log.read_text(errors="replace").count("broker fenced") for log in logs)


class BrokerKilled(Failure):
    """SIGKILL of a broker to none of its partitions being led by it in the metadata of any other."""

    promised = {"median": 1.0}
    topic = "everywhere"

    def once(self, number):
        if number == 0:
            create(self.cluster, self.topic, PARTITIONS)
        victim = number % BROKERS + 1
        others = [wire.Connection(self.cluster, broker=one) for one in range(1, BROKERS + 1) if one != victim]
        wait_until(lambda: all(self.leads(one, victim) for one in others), "all brokers to lead")
        begun = time.monotonic()
        os.kill(self.cluster.pid("broker", victim), signal.SIGKILL)
        while others:
            others = [one for one in others if self.leads(one, victim)]
            time.sleep(LOOK_SECONDS)
        seconds = time.monotonic() - begun
        self.cluster.start("broker", victim)
        return seconds

    def leads(self, connection, broker):
        return broker in connection.leaders(self.topic)


KINDS = {"leader-killed": LeaderKilled, "leader-stopped": LeaderStopped, "broker-killed": BrokerKilled}


def create(cluster, topic, partitions=1):
    """Asks until it is acknowledged, as a client would, through a broker that lives."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    with wire.Connection(cluster) as connection:
        while True:
            code = connection.create_topic(topic, partitions)
            if code in (wire.NONE, wire.TOPIC_ALREADY_EXISTS):
                return
            assert time.monotonic() < deadline, f"{topic} was refused with {code}"
            time.sleep(LOOK_SECONDS)


def run(kinds, tries):
    """Prints a line for each kind; whether all was as promised."""
    kept = True
    for kind in kinds:
        cluster = Cluster(brokers=BROKERS)
        try:
            cluster.run()
            failure = KINDS[kind](cluster)
            seconds = []
            for number in range(tries):
                failure.settle()
                seconds.append(failure.once(number))
        finally:
            if (cluster.data / "cluster.env").exists():
                cluster.stop()
            cluster.remove()
        kept &= report(failure, seconds)
    return kept


def report(failure, seconds):
    found = {"median": statistics.median(seconds), "worst": max(seconds)}
    shown = "; ".join(
        f"{name} {value * 1000:.0f} ms" + (f" (at most {failure.promised[name] * 1000:.0f})" if name in failure.promised else "")
        for name, value in found.items()
    )
    print(f"{failure.__doc__} {len(seconds)} times: {shown}", flush=True)
    for fault in failure.faults:
        print(f"  {fault}")
    return not failure.faults and all(found[name] <= most for name, most in failure.promised.items())
