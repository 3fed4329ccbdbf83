"""A short run of failing controllers, and that its judge finds each thing that must not be. `scripts/chaos control` runs it for long."""

import copy

import pytest

import chaos_check
import chaos_control

ROUNDS = 5
SEED = 3


def test_what_controllers_acknowledged_is_kept_while_they_fail():
    said = []
    run = chaos_control.Chaos(ROUNDS, SEED, said.append)
    try:
        faults = run.run()
        assert not faults, "\n".join([*faults, *said, *run.cluster.log_tails()])
        acknowledged = {entry["what"] for entry in run.history.entries if entry["outcome"] == 0}
        assert {"create", "configure", "commit", "read", "producer id"} <= acknowledged
        assert all(records for groups in run.seen["logs"].values() for records in groups.values())
        assert run.seen["leaders"] and any(run.seen["votes"].values())
    finally:
        run.close()


def entry(what, name, value, outcome=0, at=0.0):
    return {"what": what, "name": name, "value": value, "outcome": outcome, "asked": at, "answered": at + 0.5}


HISTORY = [
    entry("create", "chaos-1-1", 2, at=1),
    entry("create", "chaos-1-2", 1, at=2),
    entry("create", "chaos-1-3", 1, outcome="no answer", at=3),
    entry("delete", "chaos-1-2", None, at=4),
    entry("configure", "chaos-1-1", "10000001", at=5),
    entry("configure", "chaos-1-1", "10000002", at=6),
    entry("commit", "group", 4, at=7),
    entry("commit", "group", 5, at=8),
    entry("read", "group", 5, at=9),
    entry("commit", "group", 6, outcome=15, at=10),
    entry("producer id", None, 1000, at=11),
    entry("producer id", None, 1001, at=12),
]
LOG = {
    "meta": [
        (1, 1, 11, []), (2, 1, 12, ["chaos-1-1"]), (3, 1, 13, ["chaos-1-2"]), (4, 2, 14, ["10000001"]), (5, 2, 15, ["10000002"]),
    ],
    "offsets": [(1, 1, 21, ["4"]), (2, 3, 22, ["5"])],
}
SEEN = {
    "topics": {"chaos-1-1": {"id": "a", "config": "10000002", "partitions": [0, 1]}},
    "offsets": {"group": 5},
    "known": {1: {"chaos-1-1": 2}},
    "digests": {"meta": {1: "00@5", 2: "00@5"}},
    "leaders": [("meta", 1, 1), ("meta", 2, 2)],
    "votes": {1: [("meta", 1, 1)], 2: [("meta", 1, 1), ("meta", 2, 2)]},
    "undone": {1: []},
    "logs": {1: LOG, 2: copy.deepcopy(LOG)},
}


@pytest.mark.parametrize("values", [
    {}, {("seen", "offsets", "group"): 6},
    {("seen", "topics", "chaos-1-3"): {"id": "b", "config": None, "partitions": [0]}, ("seen", "known", 1, "chaos-1-3"): 1},
], ids=["acknowledged", "a-commit-without-an-answer", "a-topic-without-an-answer"])
def test_what_may_be_is_no_fault(values):
    assert not chaos_check.check(*changed(values))


@pytest.mark.parametrize("values, word", [
    ({("seen", "topics"): {}, ("seen", "known", 1): {}}, "is gone"),
    ({("seen", "topics", "chaos-1-1", "partitions"): [0], ("seen", "known", 1, "chaos-1-1"): 1}, "1 partitions instead of 2"),
    (
        {("seen", "topics", "chaos-1-2"): {"id": "b", "config": None, "partitions": [0]}, ("seen", "known", 1, "chaos-1-2"): 1},
        "after its acknowledged deletion",
    ),
    (
        {("seen", "topics", "chaos-1-3"): {"id": "a", "config": None, "partitions": [0]}, ("seen", "known", 1, "chaos-1-3"): 1},
        "the same id",
    ),
    ({("history", 0, "outcome"): 36}, "refused as existing"),
    ({("seen", "topics", "chaos-1-1", "config"): "10000001"}, "configured with 10000001"),
    ({("seen", "topics", "chaos-1-1", "config"): None}, "configured with None"),
    ({("seen", "offsets", "group"): 4}, "has offset 4"),
    ({("seen", "offsets", "group"): None}, "has offset None"),
    ({("history", 8, "value"): 4}, "was told 4"),
    ({("history", 11, "value"): 1000}, "given twice"),
    ({("seen", "known", 1): {}}, "broker 1 and the controllers differ"),
    ({("seen", "digests", "meta", 2): "01@5"}, "controllers differ in meta"),
    ({("seen", "digests", "meta", 2): None}, "controllers differ in meta"),
    ({("seen", "leaders", 1): ("meta", 1, 2)}, "both led meta in term 1"),
    ({("seen", "votes", 2, 0): ("meta", 1, 2)}, "as leader of meta in term 1"),
    ({("seen", "undone", 1): [("meta", 5)]}, "took back what was committed in meta at 5"),
    ({("seen", "logs", 2, "meta", 4): (5, 2, 99, ["10000002"])}, "different entries of meta at 5"),
    ({("seen", "logs", 2, "meta", 4): (5, 3, 15, ["10000002"])}, "different entries of meta at 5"),
    ({("seen", "logs", node, "meta", 4): (5, 1, 15, ["10000002"]) for node in (1, 2)}, "of term 1 behind one of term 2"),
    (
        {("seen", "logs", node, "meta", place): (place + 1, 2, 0, [value])
         for node in (1, 2) for place, value in ((3, "10000002"), (4, "10000001"))},
        "before what was acknowledged earlier",
    ),
], ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "")
def test_what_must_not_be_is_found(values, word):
    faults = chaos_check.check(*changed(values))
    assert any(word in fault for fault in faults), faults


def changed(values):
    """The history and what was seen, with other values in some places."""
    whole = {"history": copy.deepcopy(HISTORY), "seen": copy.deepcopy(SEEN)}
    for path, value in values.items():
        place = whole
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
    return whole["history"], whole["seen"]
