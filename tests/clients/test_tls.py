"""Brokers, controllers and operators' commands that speak mutual TLS, with certificates made as the README says."""

import os
import re
import subprocess

import pytest

from cluster import ROOT, Cluster, wait_until
from libraries import LIBRARIES, Record, create_topic
from test_process import as_flags, broker_command

NAMES = ("MILLRACE_TLS_CERT", "MILLRACE_TLS_KEY", "MILLRACE_TLS_CA")


def certificates(directory):
    """The variables that the README's commands export, after they were typed into a shell in the directory."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    commands = next(block for block in blocks if "openssl req -x509" in block)
    shell = subprocess.run(
        ["bash", "-ec", commands + "env -0"], cwd=directory, capture_output=True, text=True, timeout=60, check=True
    )
    variables = dict(one.split("=", 1) for one in shell.stdout.split("\0") if "=" in one)
    return {name: variables[name] for name in NAMES}


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """A cluster whose processes are told of TLS by their environment."""
    files = certificates(tmp_path_factory.mktemp("certificates"))
    os.environ.update(files)
    started = Cluster()
    try:
        started.run()
        yield started
    finally:
        try:
            if (started.data / "cluster.env").exists():
                started.stop()
        finally:
            for name in files:
                del os.environ[name]
            started.remove()


def controllers(cluster):
    return ",".join(f"127.0.0.1:{cluster.port + 3000 + i}" for i in range(cluster.controllers))


def operate(cluster, *command, environment=None):
    secret = ["--secret-file", cluster.data / "secret", "--controllers", controllers(cluster)]
    command = [cluster.binary("millrace-controller"), *command, *secret]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, env=environment)


def without_tls():
    return {name: value for name, value in os.environ.items() if name not in NAMES}


def test_a_cluster_serves_over_tls_and_survives_its_leader(secured, topic):
    library = LIBRARIES["kcat"]
    create_topic(secured.bootstrap, topic, partitions=1)
    secured.restart("controller", secured.raft_leader())
    create_topic(secured.bootstrap, f"{topic}-after", partitions=1)
    secured.restart("broker")
    secured.wait_ready()
    library.produce(secured.bootstrap, topic, [Record(b"v")])
    assert [record.value for record in library.fetch(secured.bootstrap, topic, 1)] == [b"v"]
    done = wait_until(lambda: (asked := operate(secured, "status")).returncode == 0 and asked, "the cluster to be well")
    assert "verdict: well" in done.stdout
    assert f"{topic}-after" in operate(secured, "topics").stdout


def test_only_tls_1_3_is_spoken(secured):
    address = controllers(secured).split(",")[0]
    for version, spoken in (("-tls1_2", False), ("-tls1_3", True)):
        command = ["openssl", "s_client", "-connect", address, version, "-CAfile", os.environ["MILLRACE_TLS_CA"]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        assert ("Cipher is TLS_" in done.stdout) == spoken, done.stdout + done.stderr


def test_who_has_no_certificate_is_kept_out_and_both_sides_say_why(secured, tmp_path):
    done = operate(secured, "status", environment=without_tls())
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "it speaks TLS, and this process has no certificate (--tls-cert)" in done.stderr
    log = tmp_path / "broker.log"
    command = list(map(str, broker_command(secured, tmp_path / "plain")))
    with log.open("w") as stderr:
        broker = subprocess.Popen(command, stderr=stderr, stdin=subprocess.DEVNULL, env=without_tls())
    try:
        wait_until(lambda: "it speaks TLS, and this process" in log.read_text(), "the broker to say why it is refused")
        heard = secured.data / "logs" / "controller-1.log"
        wait_until(lambda: "it does not speak TLS" in heard.read_text(), "the controller to say whom it refused")
        assert broker.poll() is None
    finally:
        broker.kill()
        broker.wait()
    assert "77" not in [line.split()[0] for line in operate(secured, "brokers").stdout.splitlines()[1:]]


def test_a_broker_says_which_file_is_wrong(secured, tmp_path):
    for name, flag, word in zip(NAMES, ("tls-cert", "tls-key", "tls-ca"), ("certificate", "private key", "certificate")):
        empty = tmp_path / flag
        empty.touch(mode=0o600)
        command = [*broker_command(secured, tmp_path / "data"), *as_flags({flag: empty})]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
        assert done.returncode == 1, name
        assert f"{empty} holds no {word} in PEM" in done.stderr.splitlines()[-1], done.stderr
