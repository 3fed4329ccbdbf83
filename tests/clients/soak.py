"""Hostile clients of every kind beside an honest producer and consumer, for as long as one likes: memory stays within a bound and flat,
and the honest ones are served. `scripts/soak --minutes 10` runs it and prints how long the honest ones wait, with and without the others.

Each client, honest or hostile, is a process of its own, so that none waits for another's interpreter. Elsewhere all of them would be on
other machines and have processors of their own. Here honest ones go before the broker, if one may say so to this system, since how long
they wait for a processor is no matter of the broker's; hostile ones have the idle class, which runs when neither the broker nor an honest
client wants to, and what they do is counted so that one sees what load they were. Nothing else is placed, and nothing differs between the
times with and without them."""

import contextlib
import os
import time
import traceback

import hostile
import wire
from hostile import FORK
from libraries import create_topic
from wire import Connection

HONEST_TOPIC = "honest"
PARTITIONS = 4
PAUSE_SECONDS = 0.01

# What a shard may have of each (limits.rs, and the ring's unread_bytes_max): large frames, frames that had to move, requests and their
# answers, records that were copied for slow readers, and what sockets have unread. The tail and the receive buffers are there from the
# start.
SHARD_BYTES_MAX = (256 + 64 + 256 + 64 + 32) << 20
# A connection has its two tasks, and the start of a frame or a request that is too small to be counted.
CONNECTION_BYTES_MAX = (8 + 4 + 16) << 10


class Honest:
    """Produces a record, reads it back, and does it again. Never is one lost or kept waiting until it gives up, and none is refused unless
    the broker was kept from its lease; then it is produced again, as any client would, and that counts as waiting."""

    def __init__(self, cluster, partition):
        self.cluster, self.partition, self.stopped = cluster, partition, FORK.Event()
        self.seconds, self.refusals, self.failure = [], 0, None
        self.report, told = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=self.run, args=(told,), daemon=True)

    def start(self):
        self.process.start()

    def stop(self):
        self.stopped.set()

    def join(self):
        if self.report.poll(60):
            self.seconds, self.refusals, self.failure = self.report.recv()
        else:
            self.failure = "an honest client waits for ever"
        self.process.join(10)

    def run(self, told):
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        try:
            self.serve_itself()
        except Exception:  # pylint: disable=broad-except
            self.failure = traceback.format_exc(limit=3)
        told.send((self.seconds, self.refusals, self.failure))

    def serve_itself(self):
        with Connection(self.cluster) as connection:
            number = 0
            while not self.stopped.is_set():
                number += 1
                value = b"%d:%d" % (self.partition, number)
                begun = time.monotonic()
                offset = self.produce(connection, value)
                error, _, records = connection.fetch(HONEST_TOPIC, self.partition, offset)
                assert error == wire.NONE and value in records, f"fetch gave {error}"
                ended = time.monotonic()
                self.seconds.append((ended, ended - begun))
                time.sleep(PAUSE_SECONDS)

    def produce(self, connection, value):
        while True:
            error, offset = connection.produce(HONEST_TOPIC, wire.batch([value]), self.partition)
            if error != wire.NOT_LEADER_OR_FOLLOWER:
                assert error == wire.NONE, f"produce was refused with {error}"
                return offset
            self.refusals += 1
            time.sleep(PAUSE_SECONDS)

    def waited(self, begin, end):
        return [seconds for at, seconds in self.seconds if begin <= at < end]


def prepare(cluster):
    for name in (HONEST_TOPIC, hostile.TOPIC):
        create_topic(cluster.bootstrap, name, PARTITIONS)
    with Connection(cluster) as connection:
        for number in range(40):
            connection.produce(hostile.TOPIC, wire.batch([bytes(500_000)]), number % PARTITIONS)
    hostile.prepare()


def memory_bound(before, shards, clients=8):
    return before + shards * SHARD_BYTES_MAX + clients * hostile.CONNECTIONS_MAX * CONNECTION_BYTES_MAX


class Phase:
    """A time with or without hostile clients, and what was seen in it."""

    def __init__(self, kind):
        self.kind, self.begin, self.end = kind, time.monotonic(), None
        self.done, self.sent, self.received = {}, 0, 0
        self.resident = []

    def watch(self, cluster, until):
        while time.monotonic() < until:
            time.sleep(0.2)
            self.resident.append(cluster.resident_bytes())

    def finish(self):
        self.end = time.monotonic()

    def add(self, done, sent, received):
        for name, count in done.items():
            self.done[name] = self.done.get(name, 0) + count
        self.sent += sent
        self.received += received


class Soak:
    """Runs hostile clients for so long, with quiet times in between if asked for, and keeps what was seen."""

    def __init__(self, cluster, clients=8, quiet=None, seed=1):
        self.cluster, self.clients, self.quiet, self.seed = cluster, clients, quiet, seed
        self.phases, self.before = [], 0
        self.honest = [Honest(cluster, partition) for partition in range(PARTITIONS)]

    def run(self, seconds):
        prepare(self.cluster)
        self.before = self.cluster.resident_bytes()
        for client in self.honest:
            client.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.quiet:
                self.phase_without(self.quiet)
            begun = time.monotonic()
            self.phase_with(min(end, begun + self.quiet * 2) if self.quiet else end)
        if self.quiet:
            self.phase_without(self.quiet)
        for client in self.honest:
            client.stop()
        for client in self.honest:
            client.join()
        return self

    def phase_without(self, seconds):
        phase = Phase("without")
        phase.watch(self.cluster, phase.begin + seconds)
        phase.finish()
        self.phases.append(phase)

    def phase_with(self, until):
        seed = self.seed * 10_000 + len(self.phases) * 100
        attackers = [hostile.Hostile(self.cluster, seed + n, n / self.clients) for n in range(self.clients)]
        phase = Phase("with")
        for attacker in attackers:
            attacker.start()
        phase.watch(self.cluster, until)
        phase.finish()
        for attacker in attackers:
            attacker.stop()
        for attacker in attackers:
            phase.add(*attacker.join())
        self.phases.append(phase)

    def failures(self):
        return [client.failure for client in self.honest if client.failure]

    def refusals(self):
        return sum(client.refusals for client in self.honest)

    def resident(self):
        """Resident bytes of the broker while there were hostile clients, in the order in which they were seen."""
        return [resident for phase in self.phases if phase.kind == "with" for resident in phase.resident]

    def kept(self):
        """What the broker kept of memory once the hostile clients of each time had gone."""
        quiet = [phase for phase in self.phases[1:] if phase.kind == "without"]
        return [min(phase.resident) for phase in quiet]

    def waits(self, kind):
        """How long each round of an honest client took in the times of this kind."""
        phases = [phase for phase in self.phases if phase.kind == kind]
        return [wait for phase in phases for client in self.honest for wait in client.waited(phase.begin, phase.end)]

    def done(self):
        total = {}
        for phase in self.phases:
            for name, count in phase.done.items():
                total[name] = total.get(name, 0) + count
        return total
