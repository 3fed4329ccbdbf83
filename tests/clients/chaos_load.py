"""Clients that change what the control plane keeps, each in its own names, and the history of what they asked and what was acknowledged.

A name whose last change was not acknowledged is left alone from then on: the change may be made at any time or never, so of such a name
both values are right, and of every other only the last one that was acknowledged. Every value is asked for once in a whole run."""

import itertools
import json
import random
import threading
import time

import wire

WAIT_SECONDS_MAX = 6
WAIT_MS = 4_000
PAUSE_SECONDS = 0.03
REGISTERS = 3
TOPICS_KEPT = 20
PARTITIONS_MAX = 3
CONFIG = "retention.ms"

numbers = itertools.count(1)


class History:
    """What was asked, in the order of the answers, in memory and in a file."""

    def __init__(self, path):
        self.file = path.open("a")
        self.lock = threading.Lock()
        self.entries = []

    def add(self, asked, **entry):
        with self.lock:
            entry = {**entry, "asked": asked, "answered": time.monotonic()}
            self.entries.append(entry)
            self.file.write(json.dumps(entry) + "\n")

    def acknowledged(self):
        return sum(entry["outcome"] == 0 for entry in self.entries)

    def close(self):
        self.file.close()


class Client(threading.Thread):
    """One client, which does one thing after another. What it may do is named by its methods that begin with `do_`."""

    def __init__(self, cluster, history, number, seed):
        super().__init__(daemon=True)
        self.cluster, self.history, self.number = cluster, history, number
        self.draw = random.Random(f"{seed} client {number}")
        self.stopped = threading.Event()
        self.connections = {}
        self.created = []
        self.committed = {}
        self.failure = None

    def run(self):
        doing = [self.do_create, self.do_delete, self.do_producer_id] + [self.do_configure, self.do_commit, self.do_read] * 2
        try:
            while not self.stopped.is_set():
                self.draw.choice(doing)()
                time.sleep(self.draw.random() * 2 * PAUSE_SECONDS)
        except Exception as error:  # pylint: disable=broad-except
            self.failure = f"client {self.number}: {error!r}"

    def do_create(self):
        if len(self.created) >= TOPICS_KEPT:
            return
        topic, partitions = f"chaos-{self.number}-{next(numbers)}", self.draw.randint(1, PARTITIONS_MAX)
        if self.ask("create", topic, partitions, lambda broker: broker.create_topic(topic, partitions, WAIT_MS)) == wire.NONE:
            self.created.append(topic)

    def do_delete(self):
        """The oldest topic of those that the rest is not about."""
        if len(self.created) < TOPICS_KEPT:
            return
        topic = self.created.pop(REGISTERS)
        self.ask("delete", topic, None, lambda broker: broker.delete_topic(topic, WAIT_MS))

    def do_configure(self):
        """Not the first topic, which commits are about."""
        if len(self.created) < REGISTERS:
            return
        place = self.draw.randrange(1, REGISTERS)
        topic, value = self.created[place], str(10_000_000 + next(numbers))
        if self.ask("configure", topic, value, lambda broker: broker.set_config(topic, CONFIG, value)) != wire.NONE:
            self.created.pop(place)

    def do_commit(self):
        """Commits go to topics that stay; a group that is left alone is followed by another."""
        if not self.created:
            return
        place = self.draw.randrange(REGISTERS)
        group, topic, outcome = self.committed.get(place, (None, None, None))
        if outcome != wire.NONE:
            group, topic = f"chaos-{self.number}-{place}-{next(numbers)}", self.created[0]
        offset = next(numbers)
        outcome = self.ask("commit", group, offset, lambda broker: broker.commit(group, topic, offset), group, topic=topic)
        self.committed[place] = group, topic, outcome

    def do_read(self):
        known = [(group, topic) for group, topic, outcome in self.committed.values() if outcome == wire.NONE]
        if not known:
            return
        group, topic = self.draw.choice(known)
        self.ask("read", group, None, lambda broker: broker.fetch_offset(group, topic), group)

    def do_producer_id(self):
        self.ask("producer id", None, None, lambda broker: broker.init_producer_id())

    def ask(self, what, name, value, request, group=None, **more):
        """Asks a broker, the coordinator of a group, and writes down the outcome: an error code, or that no answer came."""
        asked = time.monotonic()
        outcome, broker = "no answer", None
        try:
            broker = self.broker_for(group)
            outcome = request(self.connection(broker))
        except (OSError, ConnectionError):
            self.forget(broker)
        if isinstance(outcome, tuple):
            outcome, value = outcome
        self.history.add(asked, what=what, name=name, value=value, outcome=outcome, **more)
        return outcome

    def broker_for(self, group):
        any_broker = self.draw.randint(1, self.cluster.brokers)
        if group is None:
            return any_broker
        error, port = self.connection(any_broker).coordinator(group)
        return any_broker if error else port - self.cluster.port + 1

    def connection(self, broker):
        if broker not in self.connections:
            self.connections[broker] = wire.Connection(self.cluster, broker=broker, wait_seconds=WAIT_SECONDS_MAX)
        return self.connections[broker]

    def forget(self, broker):
        """An answer that comes late would be taken for the next one's. Without a broker, finding one failed."""
        for number in [broker] if broker else list(self.connections):
            connection = self.connections.pop(number, None)
            if connection:
                connection.socket.close()


class Load:
    """Clients beside each other, until they are stopped."""

    def __init__(self, cluster, history, seed, clients=8):
        self.history = history
        self.clients = [Client(cluster, history, number, seed) for number in range(1, clients + 1)]

    def start(self):
        for client in self.clients:
            client.start()

    def stop(self):
        for client in self.clients:
            client.stopped.set()
        for client in self.clients:
            client.join(4 * WAIT_SECONDS_MAX)

    def failures(self):
        alive = [f"client {client.number} waits for ever" for client in self.clients if client.is_alive()]
        return alive + [client.failure for client in self.clients if client.failure]
