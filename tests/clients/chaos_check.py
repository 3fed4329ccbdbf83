"""Decides whether a history of what was asked of a control plane, and what it was in the end, keep what is promised. It looks at nothing
else, so a history that was kept can be judged again.

`history`: what the clients asked (chaos_load.py). `seen`: what was seen of the cluster (chaos_control.py): its leaders from time to time,
and in the end its topics, its offsets, its digests and what each controller has on disk."""

TOPIC_ALREADY_EXISTS = 36


def check(history, seen):
    """One line for each promise that was broken."""
    faults = []
    for promise in (topics, configs, commits, reads, producer_ids, topic_ids, brokers, digests, leaders, votes, undone, logs, order):
        faults += promise(history, seen)
    return faults


def of(history, *what):
    return [entry for entry in history if entry["what"] in what]


def acknowledged(entry):
    return entry["outcome"] == 0


def by_name(entries):
    names = {}
    for entry in entries:
        names.setdefault(entry["name"], []).append(entry)
    return names


def allowed(entries):
    """What a name may have in the end: the last value that was acknowledged, and one asked for afterwards. `None`: nothing."""
    values = [None]
    for entry in entries:
        values = [entry["value"]] if acknowledged(entry) else [*values, entry["value"]]
    return values


def topics(history, seen):
    """Acknowledged topics are there with their partitions until their deletion is asked for, and gone once that is acknowledged."""
    deleted = {entry["name"]: acknowledged(entry) for entry in of(history, "delete")}
    for entry in of(history, "create"):
        name, found = entry["name"], seen["topics"].get(entry["name"])
        if entry["outcome"] == TOPIC_ALREADY_EXISTS:
            yield f"topic {name} was refused as existing, which nobody else asked for"
        if found and deleted.get(name):
            yield f"topic {name} is there after its acknowledged deletion"
        elif not found and acknowledged(entry) and name not in deleted:
            yield f"topic {name} was acknowledged and is gone"
        elif found and len(found["partitions"]) != entry["value"]:
            yield f"topic {name} has {len(found['partitions'])} partitions instead of {entry['value']}"


def configs(history, seen):
    for name, entries in by_name(of(history, "configure")).items():
        found = seen["topics"].get(name)
        if found and found["config"] not in allowed(entries):
            yield f"topic {name} is configured with {found['config']} instead of {allowed(entries)}"


def commits(history, seen):
    for group, entries in by_name(of(history, "commit")).items():
        found = seen["offsets"].get(group)
        if found not in allowed(entries):
            yield f"group {group} has offset {found} instead of {allowed(entries)}"


def reads(history, _):
    """What a group is told that it has committed, each time that it is asked."""
    for group, entries in by_name(of(history, "commit", "read")).items():
        written = []
        for entry in entries:
            if entry["what"] == "commit":
                written.append(entry)
            elif acknowledged(entry) and entry["value"] not in allowed(written):
                yield f"group {group} was told {entry['value']} instead of {allowed(written)}"


def producer_ids(history, _):
    given = set()
    for entry in filter(acknowledged, of(history, "producer id")):
        if entry["value"] in given:
            yield f"producer id {entry['value']} was given twice"
        given.add(entry["value"])


def topic_ids(_, seen):
    ids = {}
    for name, topic in seen["topics"].items():
        other = ids.setdefault(topic["id"], name)
        if other != name:
            yield f"topics {other} and {name} have the same id"


def brokers(_, seen):
    """Every broker knows the topics that the controllers have."""
    for broker, known in seen["known"].items():
        having = {name: len(topic["partitions"]) for name, topic in seen["topics"].items()}
        if known != having:
            yield f"broker {broker} and the controllers differ in topics {sorted(dict(known.items() ^ having.items()))[:5]}"


def digests(_, seen):
    """What every member has applied in the end, with the index up to which: all are to have the same."""
    for group, found in seen["digests"].items():
        if len(set(found.values())) != 1 or None in found.values():
            yield f"controllers differ in {group}: {found}"


def leaders(_, seen):
    """No term has two leaders, by what the controllers said of themselves."""
    led = {}
    for group, term, node in seen["leaders"]:
        other = led.setdefault((group, term), node)
        if other != node:
            yield f"controllers {other} and {node} both led {group} in term {term}"


def votes(_, seen):
    """The same by what each has written down of who was granted a term."""
    granted = {}
    for node, records in seen["votes"].items():
        for group, term, leader in records:
            other = granted.setdefault((group, term), leader)
            if other != leader:
                yield f"controller {node} knows {leader} as leader of {group} in term {term}, and another {other}"


def undone(_, seen):
    """What is known to be committed is never taken back."""
    for node, records in seen["undone"].items():
        for group, index in records:
            yield f"controller {node} took back what was committed in {group} at {index}"


def logs(_, seen):
    """All have the same at every committed index that they have, and terms never go back: a leader of an older term committed nothing
    after a newer one did."""
    first = {}
    for node, groups in seen["logs"].items():
        for group, records in groups.items():
            newest = 0
            for index, term, checksum, _ in records:
                if term < newest:
                    yield f"controller {node} has an entry of term {term} behind one of term {newest} in {group}, at {index}"
                newest = max(newest, term)
                other, record = first.setdefault((group, index), (node, (term, checksum)))
                if record != (term, checksum):
                    yield f"controllers {other} and {node} have different entries of {group} at {index}"


def order(history, seen):
    """What was asked after another thing had been acknowledged stands behind it in the log."""
    for group, whats in (("meta", ("create", "configure")), ("offsets", ("commit",))):
        places = places_of(seen, group)
        asked = [(entry, places.get(str(entry["name"] if entry["what"] == "create" else entry["value"]))) for entry in of(history, *whats)]
        asked = [(entry, place) for entry, place in asked if place and acknowledged(entry)]
        # The entries are in the order of their answers.
        before, latest = iter(asked), 0
        done = next(before, None)
        for entry, (_, last) in sorted(asked, key=lambda one: one[0]["asked"]):
            while done and done[0]["answered"] < entry["asked"]:
                latest = max(latest, done[1][0])
                done = next(before, None)
            if last < latest:
                yield f"{entry['what']} of {entry['name']} stands in {group} at {last}, before what was acknowledged earlier at {latest}"


def places_of(seen, group):
    """By value, the first and the last index at which it stands in any log."""
    places = {}
    for groups in seen["logs"].values():
        for index, _, _, values in groups.get(group, ()):
            for value in values:
                first, last = places.get(value, (index, index))
                places[value] = min(first, index), max(last, index)
    return places
