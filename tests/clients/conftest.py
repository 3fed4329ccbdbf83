"""A fresh cluster for each module of tests, and a fresh topic name for each test."""

import itertools
import os

import pytest

from cluster import Cluster

numbers = itertools.count(1)


@pytest.fixture(scope="module")
def cluster(request):
    started = Cluster()
    failed_before = request.session.testsfailed
    try:
        started.run()
        yield started
        # A cluster whose broker died unseen would make every test before it worthless.
        assert started.is_running("broker"), "the broker is still running at the end"
    finally:
        if request.session.testsfailed > failed_before:
            print("\n".join(started.log_tails()))
        try:
            if (started.data / "cluster.env").exists():
                started.stop()
        finally:
            if not os.environ.get("MILLRACE_KEEP"):
                started.remove()


@pytest.fixture
def topic(request):
    name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in request.node.name)
    return f"{name[:200]}-{next(numbers)}"
