"""Controllers that are killed, stopped, wiped, filled up, moved and exchanged, and brokers that are killed, beside clients that change what
the controllers keep: `scripts/chaos control`.

What is done in which round follows from the seed alone; whom it hits may depend on who leads. In between, and in the end, the cluster has
to become well again. What was seen of it goes to chaos_check.py together with what the clients asked."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
import zlib
from pathlib import Path

import chaos_check
import chaos_load
import wire
from cluster import SCRIPTS, Cluster, wait_until

NUMBERS = (1, 2, 3, 4, 5)
FIRST = (1, 2, 3)
BROKERS = 2
# Fewer could not spare one; more do not vote.
MEMBERS_MIN, MEMBERS_MAX = 2, 5
# This one's data are on a file system that can be filled.
SMALL = 2
SMALL_BYTES = 64 << 20
FILL_PART = 1 << 20

PAUSE_SECONDS_MAX = 1.5
HEAL_SECONDS_MAX = 60
CHANGE_SECONDS_MAX = 15
LOOK_SECONDS = 0.1
WELL_PROBABILITY = 0.4

# Some take snapshots often and keep little of the log, so that others need what they have lost from a snapshot.
SNAPSHOT_LOG_BYTES = {1: 64 << 10, 4: 256 << 10}
LOG_ENTRIES_KEPT = 20


class Controllers:
    """The controllers as processes: which are members, and how each is started and ended."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.members = set(FIRST)
        self.processes = {}
        self.joined = set()
        # By number: how often it was moved to another address.
        self.moves = {}
        self.small = self.data(SMALL)
        self.small.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "none", self.small]
        self.can_fill = subprocess.run(mount, capture_output=True, check=False).returncode == 0

    def unmount(self):
        if self.can_fill:
            wait_until(lambda: subprocess.run(["umount", self.small], capture_output=True, check=False).returncode == 0, "an unmount")

    def data(self, number):
        return self.cluster.data / f"controller-{number}"

    def address(self, number):
        return f"127.0.0.{1 + self.moves.get(number, 0)}:{self.cluster.port + 3000 + number - 1}"

    def pid(self, number):
        # Of a process of our own we know ourselves whether it runs; those of the start are known by their files.
        process = self.processes.get(number)
        if process is None:
            return running(self.cluster, "controller", number)
        return process.pid if process.poll() is None else None

    def signal(self, number, which):
        pid = self.pid(number)
        if pid:
            os.kill(pid, which)

    def kill(self, number):
        self.signal(number, signal.SIGKILL)
        wait_until(lambda: self.pid(number) is None, f"controller {number} to end")

    def start(self, number):
        """One that joined, or lost its disk, is told of the others; the first ones are told again what they were told at first."""
        if self.pid(number):
            return
        others = [self.address(one) for one in sorted(self.members - {number})]
        known = ["--join", ",".join(others)]
        if number not in self.joined:
            known = ["--peers", ",".join(f"{one}={self.address(one)}" for one in FIRST)]
        command = [
            self.cluster.binary("millrace-controller"), "serve", "--id", number, "--listen", self.address(number), *known,
            "--metrics", f"127.0.0.1:{self.cluster.metrics_port('controller', number)}", "--data", self.data(number),
            "--secret-file", self.cluster.data / "secret",
        ]
        if number in self.moves:
            command += ["--advertise", self.address(number)]
        if number in SNAPSHOT_LOG_BYTES:
            command += ["--snapshot-log-bytes", SNAPSHOT_LOG_BYTES[number], "--log-entries-kept", LOG_ENTRIES_KEPT]
        with (self.cluster.data / "logs" / f"controller-{number}.log").open("a") as log:
            process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.processes[number] = process
        (self.cluster.data / "pids" / f"controller-{number}").write_text(str(process.pid))

    def wipe(self, number):
        self.joined.add(number)
        for path in self.data(number).iterdir() if self.data(number).exists() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def fill(self):
        with (self.small / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(FILL_PART))
            except OSError:
                pass

    def free(self):
        (self.small / "filler").unlink(missing_ok=True)

    def ask(self, *command, seconds=CHANGE_SECONDS_MAX):
        """What a command of an operator's printed, and whether it succeeded."""
        known = ",".join(self.address(one) for one in sorted(self.members))
        asked = [*command, "--controllers", known, "--secret-file", self.cluster.data / "secret"]
        program = self.cluster.binary("millrace-controller")
        done = subprocess.run(list(map(str, [program, *asked])), capture_output=True, text=True, timeout=4 * seconds, check=False)
        return done.returncode == 0, done.stdout or done.stderr

    def change(self, *command):
        return self.ask("quorum", *command, "--wait-seconds", CHANGE_SECONDS_MAX)

    def status(self):
        _, text = self.ask("status", "--json")
        return json.loads(text) if text.startswith("{") else {"healthy": False, "problems": [text]}

    def voters(self):
        """Who votes on both groups, each with the disk that it has now and where it is now."""
        done, text = self.ask("quorum", "status", "--json")
        rows = json.loads(text) if done else []
        voting = {}
        for row in rows:
            number = row["controller"]
            current = row["disk"] == self.disk(number) and row["address"] == self.address(number)
            if row["role"] in ("leader", "voter") and current:
                voting.setdefault(row["controller"], set()).add(row["group"])
        return {number for number, groups in voting.items() if len(groups) == 2}, {row["controller"] for row in rows}

    def disk(self, number):
        identity = self.data(number) / "identity"
        return identity.read_text().splitlines()[2].removeprefix("disk ") if identity.exists() else None


class Brokers:
    """The brokers as processes. They are told of the controllers as these were at first, and have to find them."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.starting = {}

    def kill(self, number):
        pid = running(self.cluster, "broker", number)
        if pid:
            os.kill(pid, signal.SIGKILL)

    def start(self):
        """Those that do not run. It is not waited until they are ready, which takes controllers."""
        for number in range(1, BROKERS + 1):
            starting = self.starting.get(number)
            if running(self.cluster, "broker", number) or (starting and starting.poll() is None):
                continue
            command = [SCRIPTS / "start", "broker", str(number), "--data", self.cluster.data]
            self.starting[number] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

    def wait(self):
        for starting in self.starting.values():
            starting.wait()


def running(cluster, kind, number):
    """Its pid; `None` where it does not run: the number in the file may be another program's by now."""
    try:
        pid = cluster.pid(kind, number)
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        return None
    return pid if str(cluster.data / f"{kind}-{number}").encode() in arguments else None


class Watch(threading.Thread):
    """Looks from time to time who says that it leads, in which term."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.cluster, self.stopped, self.leaders = cluster, threading.Event(), set()

    def run(self):
        while not self.stopped.wait(LOOK_SECONDS):
            for number in NUMBERS:
                self.look(number)

    def look(self, number):
        values = {}
        for line in (self.cluster.http("controller", number, "/metrics", 0.2) or "").splitlines():
            found = re.match(r'millrace_raft_(leader|term)\{group="(\w+)"\} (\d+)', line)
            if found:
                values[found[1], found[2]] = int(found[3])
        for group in ("meta", "offsets"):
            if values.get(("leader", group)):
                self.leaders.add((group, values["term", group], number))


class Chaos:
    """Some rounds of failures, and what was seen."""

    def __init__(self, rounds, seed, say=print):
        self.rounds, self.seed, self.say = rounds, seed, say
        self.draw = random.Random(seed)
        self.cluster = Cluster(len(FIRST), BROKERS)
        self.controllers = Controllers(self.cluster)
        self.brokers = Brokers(self.cluster)
        self.history = chaos_load.History(self.cluster.data / "history.jsonl")
        self.seen = {}
        self.faults = []
        self.done = {}

    def run(self):
        """The promises that were broken, one line each."""
        load = chaos_load.Load(self.cluster, self.history, self.seed)
        watch = Watch(self.cluster)
        try:
            self.cluster.run()
            load.start()
            watch.start()
            self.until_well()
            for number in range(1, self.rounds + 1):
                self.round(number)
            self.until_well()
            load.stop()
            self.look_at_the_end(watch)
            self.faults += chaos_check.check(self.history.entries, self.seen)
        except AssertionError as fault:
            self.faults.append(str(fault))
        finally:
            watch.stopped.set()
            load.stop()
            self.faults += load.failures()
            self.history.close()
            (self.cluster.data / "seen.json").write_text(json.dumps(self.seen))
        return self.faults

    def close(self, keep=None):
        """Ends what still runs. `keep`: where to put what is needed to judge the run again."""
        for number in NUMBERS:
            self.controllers.signal(number, signal.SIGCONT)
        self.brokers.wait()
        if (self.cluster.data / "cluster.env").exists():
            self.cluster.stop()
        for number in NUMBERS:
            self.controllers.kill(number)
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            for path in [*self.cluster.data.glob("*.json*"), *(self.cluster.data / "logs").glob("*.log")]:
                shutil.copy(path, keep)
        self.controllers.unmount()
        self.cluster.remove()

    # --- Rounds. Each kind of failure answers what it did, or `None` where there was nothing to do ------------------------------

    def round(self, number):
        kinds = {
            self.kill_leader: 4, self.kill_some: 3, self.kill_all: 1, self.stop_leader: 4, self.stop_some: 2,
            self.wipe: 2, self.wipe_one_of_a_majority: 3, self.fill: 3, self.add: 3, self.remove: 3, self.transfer: 2,
            self.move: 3, self.kill_broker: 3,
        }
        what = None
        while what is None:
            kind = self.draw.choices(list(kinds), kinds.values())[0]
            what = kind()
        pause = self.draw.random() * PAUSE_SECONDS_MAX
        well = self.draw.random() < WELL_PROBABILITY
        name = kind.__name__
        self.done[name] = self.done.get(name, 0) + 1
        time.sleep(pause)
        if kind == self.fill and self.controllers.pid(SMALL) is None:
            what += ", which ended it"
        self.repair()
        if well:
            self.until_well()
        voters = "".join(map(str, sorted(self.controllers.members)))
        served = self.history.acknowledged()
        self.say(f"round {number}: {name}: {what}; {'well again, ' if well else ''}members {voters}, {served} acknowledged")

    def some(self, most):
        members = sorted(self.controllers.members)
        return self.draw.sample(members, min(len(members), self.draw.randint(1, most)))

    def leader(self):
        """Who leads either group, by what the others say, or anyone while nobody does."""
        group = self.draw.choice(["meta", "offsets"])
        anyone = self.draw.choice(sorted(self.controllers.members))
        rows = self.controllers.status().get("controllers", [])
        leading = [row["node"] for row in rows if row["role"] == "leader" and row["group"] == group and row["majority"]]
        return leading[0] if leading else anyone

    def kill_leader(self):
        return self.kill_these([self.leader()])

    def kill_some(self):
        return self.kill_these(self.some(2))

    def kill_all(self):
        return self.kill_these(sorted(self.controllers.members))

    def kill_these(self, numbers):
        for number in numbers:
            self.controllers.signal(number, signal.SIGKILL)
        return f"killed {numbers}"

    def stop_leader(self):
        return self.stop_these([self.leader()])

    def stop_some(self):
        return self.stop_these(self.some(2))

    def stop_these(self, numbers):
        for number in numbers:
            self.controllers.signal(number, signal.SIGSTOP)
        return f"stopped {numbers}"

    def wipe(self):
        """Only one disk is lost at a time, and only while all the others have what it had: more are not promised to be survived."""
        if len(self.controllers.members) < 3:
            return None
        self.until_well()
        number = self.draw.choice(sorted(self.controllers.members))
        self.controllers.kill(number)
        self.controllers.wipe(number)
        return f"wiped [{number}]"

    def wipe_one_of_a_majority(self):
        """A majority has what the rest lacks, as that is stopped. One of it loses its disk; the others are killed, and come back with
        theirs at the end of the round. Were the empty disk to vote meanwhile, it and the rest would be a majority that knows nothing."""
        if len(self.controllers.members) < 3:
            return None
        self.until_well()
        members = sorted(self.controllers.members)
        self.draw.shuffle(members)
        most = len(members) // 2 + 1
        wiped, killed, rest = members[0], members[1:most], members[most:]
        self.stop_these(rest)
        time.sleep(self.draw.random() * PAUSE_SECONDS_MAX)
        self.kill_these([wiped, *killed])
        self.controllers.kill(wiped)
        self.controllers.wipe(wiped)
        self.controllers.start(wiped)
        for number in rest:
            self.controllers.signal(number, signal.SIGCONT)
        return f"stopped {rest}, then wiped [{wiped}] and killed {killed}"

    def fill(self):
        if not self.controllers.can_fill or SMALL not in self.controllers.members:
            return None
        self.controllers.fill()
        return f"filled the disk of [{SMALL}]"

    def add(self):
        absent = sorted(set(NUMBERS) - self.controllers.members)
        if not absent:
            return None
        number = self.draw.choice(absent)
        self.controllers.kill(number)
        self.controllers.wipe(number)
        self.controllers.start(number)
        self.controllers.members.add(number)
        if self.draw.random() < 0.3:
            self.kill_leader()
        return self.changed("add", f"{number}={self.controllers.address(number)}")

    def remove(self):
        if len(self.controllers.members) <= MEMBERS_MIN:
            return None
        number = self.draw.choice(sorted(self.controllers.members))
        killed = self.draw.random() < 0.3
        if killed:
            # It does not come back, which is as much as a lost disk.
            self.until_well()
            self.controllers.kill(number)
        self.controllers.members.discard(number)
        return ("killed and " if killed else "") + self.changed("remove", number)

    def transfer(self):
        return self.changed("transfer", self.draw.choice(sorted(self.controllers.members)))

    def move(self):
        """Controllers come back elsewhere, and tell the others themselves, of which enough are where they were."""
        numbers = self.some(max(1, (len(self.controllers.members) - 1) // 2))
        for number in numbers:
            self.controllers.kill(number)
            self.controllers.moves[number] = self.controllers.moves.get(number, 0) + 1
        for number in numbers:
            self.controllers.start(number)
        return f"moved {numbers}"

    def kill_broker(self):
        number = self.draw.randint(1, BROKERS)
        self.brokers.kill(number)
        if self.draw.random() < 0.3:
            self.kill_leader()
        return f"killed broker {number}"

    def changed(self, *command):
        done, text = self.controllers.change(*command)
        text = text.strip().splitlines()[-1:] or ["no reason given"]
        return " ".join(map(str, command)) + ("" if done else f" failed: {text[0]}")

    # --- Becoming well again ------------------------------------------------------------------------------------------------

    def repair(self):
        """Ends the failure; what follows from it may go on."""
        self.controllers.free()
        self.brokers.start()
        for number in sorted(self.controllers.members):
            self.controllers.signal(number, signal.SIGCONT)
            self.controllers.start(number)

    def until_well(self):
        """All members vote with the disk that they have, all have the same, and clients are served."""
        deadline, reason = time.monotonic() + HEAL_SECONDS_MAX, None
        while True:
            self.repair()
            reason = self.unwell()
            if reason is None:
                break
            assert time.monotonic() < deadline, f"not well after {HEAL_SECONDS_MAX} s: {reason}"
            time.sleep(0.05)
        served = self.history.acknowledged()
        wait_until(lambda: self.history.acknowledged() > served, "clients to be served")

    def unwell(self):
        status = self.controllers.status()
        if not status["healthy"]:
            return status["problems"]
        voting, known = self.controllers.voters()
        members = self.controllers.members
        for number in known - members:
            return self.changed("remove", number)
        for number in members - voting:
            if number not in known:
                return self.changed("add", f"{number}={self.controllers.address(number)}")
        return None if voting == members else f"of {members} vote {voting}"

    # --- In the end ---------------------------------------------------------------------------------------------------------

    def look_at_the_end(self, watch):
        self.until_equal()
        _, text = self.controllers.ask("topics", "--json")
        topics = {}
        for row in json.loads(text):
            topic = topics.setdefault(row["topic"], {"id": row["id"], "config": row["configs"].get(chaos_load.CONFIG), "partitions": []})
            topic["partitions"].append(row["partition"])
        self.seen["topics"] = topics
        self.seen["offsets"] = self.offsets()
        # Reading the offsets has taken a while, so the brokers have what the controllers had before.
        self.seen["known"] = {number: self.known(number) for number in range(1, BROKERS + 1)}
        watch.stopped.set()
        watch.join()
        self.seen["leaders"] = sorted(watch.leaders)
        self.cluster.stop()
        for number in NUMBERS:
            self.controllers.kill(number)
        dumps = {number: self.dump(number) for number in sorted(self.controllers.members)}
        for place, name in enumerate(("votes", "undone", "logs")):
            self.seen[name] = {number: dump[place] for number, dump in dumps.items()}

    def until_equal(self):
        """Until all have applied as much, now that nobody asks for anything."""
        def look():
            digests = {}
            for row in self.controllers.status().get("controllers", []):
                digests.setdefault(row["group"], {})[row["node"]] = row["digest"]
            self.seen["digests"] = digests
            equal = all(len(set(found.values())) == 1 and None not in found.values() for found in digests.values())
            return len(digests) == 2 and equal
        try:
            wait_until(look, "all controllers to have applied the same", HEAL_SECONDS_MAX)
        except AssertionError:
            # The checker says so.
            pass

    def offsets(self):
        found = {}
        for entry in self.history.entries:
            if entry["what"] == "commit" and entry["name"] not in found:
                found[entry["name"]] = wait_until(lambda: self.offset(entry["name"], entry["topic"]), "an offset")[0]
        return found

    def offset(self, group, topic):
        """In a tuple, so that it is true once it is known."""
        with wire.Connection(self.cluster) as connection:
            error, port = connection.coordinator(group)
        if error:
            return None
        with wire.Connection(self.cluster, broker=port - self.cluster.port + 1) as connection:
            error, offset = connection.fetch_offset(group, topic)
        return None if error else (None if offset == -1 else offset,)

    def known(self, broker):
        with wire.Connection(self.cluster, broker=broker) as connection:
            topics = connection.topics(wire.all_metadata_request())
        return {name: len(leaders) for name, leaders in topics.items()}

    def dump(self, number):
        """What a controller has on disk: the votes, the log, and what it took back although it knew it for committed."""
        command = [self.cluster.binary("millrace-controller"), "dump", self.controllers.data(number), "--json"]
        printed = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout
        votes, undone, logs, committed = [], [], {"meta": {}, "offsets": {}}, {"meta": -1, "offsets": -1}
        for line in map(json.loads, printed.splitlines()):
            group, what, index, term, text = (line[name] for name in ("group", "what", "index", "term", "text"))
            granted = re.match(r"for node (\d+) in term (\d+), granted by a majority", text)
            if what == "vote" and granted:
                votes.append((group, int(granted[2]), int(granted[1])))
            elif what == "committed":
                committed[group] = max(committed[group], index)
            elif what == "truncated":
                kept = -1 if index is None else index
                undone += [(group, gone) for gone in logs[group] if kept < gone <= committed[group]]
                logs[group] = {place: record for place, record in logs[group].items() if place <= kept}
            elif what in ("command", "blank", "membership"):
                logs[group][index] = index, term, zlib.crc32(text.encode()), values_of(text) if what == "command" else []
        ended = {group: [record for index, record in sorted(log.items()) if index <= committed[group]] for group, log in logs.items()}
        return votes, undone, ended


def values_of(text):
    """What clients asked for in a command: names of topics, values of configs, offsets."""
    return [value for form in (r'name: "(chaos-\d+-\d+)"', r'"(\d{8})"', r"\boffset: (\d+)") for value in re.findall(form, text)]
