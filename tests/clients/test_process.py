"""The programs as an operator meets them: what they say and how they end when something around them is wrong."""

import re
import signal
import socket
import subprocess
import time

import kafka
import kafka.errors
import pytest

from cluster import is_free, wait_until
from libraries import LIBRARIES, Record, create_topic

SECONDS_MAX = 60

# A line of the program's log, as opposed to what it says on its way out.
LOG_LINE = re.compile(r"^(\x1b\[\w+)*\d{4}-\d\d-\d\dT")


def broker_command(cluster, data, listen=None, number=77, **flags):
    controllers = ",".join(f"127.0.0.1:{cluster.port + 3000 + i}" for i in range(cluster.controllers))
    settings = {
        "id": number, "listen": listen or f"127.0.0.1:{spare_port(cluster)}", "controllers": controllers,
        "data": data, "shards": 1, "secret-file": cluster.data / "secret", **flags,
    }
    return [cluster.binary("millrace-broker"), *as_flags(settings)]


def controller_command(cluster, data, listen=None, **flags):
    listen = listen or f"127.0.0.1:{spare_port(cluster)}"
    settings = {
        "id": 1, "listen": listen, "peers": f"1={listen}", "metrics": f"127.0.0.1:{spare_port(cluster, 60)}",
        "data": data, "secret-file": cluster.data / "secret", **flags,
    }
    return [cluster.binary("millrace-controller"), "serve", *as_flags(settings)]


def as_flags(settings):
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def spare_port(cluster, first=50):
    return next(port for port in range(cluster.port + first, cluster.port + first + 500) if is_free(port))


def run(command):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=SECONDS_MAX, stdin=subprocess.DEVNULL
    )
    return done.returncode, [line for line in done.stderr.splitlines() if line.strip() and not LOG_LINE.match(line)]


def check_refused(command, *words):
    """Ends with a failure and one line that says why."""
    status, lines = run(command)
    assert status != 0 and status > 0, f"status {status}: {lines}"
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0], lines


@pytest.mark.parametrize("name", ["millrace-broker", "millrace-controller"])
def test_a_program_says_which_build_it_is(cluster, name):
    said = subprocess.run([cluster.binary(name), "--version"], capture_output=True, text=True, timeout=SECONDS_MAX)
    build = re.fullmatch(name + r" (\d+\.\d+\.\d+ \(profile (dev|release|full)\))\n", said.stdout)
    assert build, said
    kind = name.removeprefix("millrace-")
    assert f'build="{build[1]}"' in (cluster.data / "logs" / f"{kind}-1.log").read_text()


def test_a_bad_flag(cluster, tmp_path):
    for command in (broker_command(cluster, tmp_path), controller_command(cluster, tmp_path)):
        status, lines = run([*command, "--no-such-flag"])
        assert status > 0
        assert len(lines) == 1 and "--no-such-flag" in lines[0], lines


@pytest.mark.parametrize("flags", [
    {"id": 0}, {"id": "x"}, {"listen": "nowhere"}, {"shards": 0}, {"controllers": "nobody"},
], ids=str)
def test_a_bad_value_names_its_flag(cluster, tmp_path, flags):
    status, lines = run(broker_command(cluster, tmp_path, **{"number": 77, **flags}))
    (name,) = flags
    assert status > 0
    assert f"--{name}" in lines[0], lines


def test_a_busy_port(cluster, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        check_refused(broker_command(cluster, tmp_path / "broker", listen=address), address)
        check_refused(controller_command(cluster, tmp_path / "controller", listen=address), address)
        check_refused(broker_command(cluster, tmp_path / "broker", metrics=address), address, "metrics")
        check_refused(controller_command(cluster, tmp_path / "controller", metrics=address), address)


def test_a_data_directory_that_another_process_uses(cluster):
    broker, controller = cluster.data / "broker-1", cluster.data / "controller-1"
    check_refused(broker_command(cluster, broker, number=1), str(broker))
    check_refused(controller_command(cluster, controller), str(controller))
    assert cluster.is_running("broker") and cluster.is_running("controller", 1)


def test_a_data_directory_of_another_broker(cluster):
    cluster.kill("broker")
    try:
        check_refused(broker_command(cluster, cluster.data / "broker-1", number=2), "broker 1")
    finally:
        cluster.start("broker")
    cluster.wait_ready()


def test_a_data_directory_that_cannot_be_written(cluster, tmp_path):
    (tmp_path / "file").write_text("in the way")
    check_refused(broker_command(cluster, tmp_path / "file" / "data"), str(tmp_path))
    check_refused(controller_command(cluster, tmp_path / "file" / "data"), str(tmp_path))


@pytest.mark.parametrize("options, words", [("ro", "Read-only"), ("size=4k", "No space left")], ids=["read-only", "full"])
def test_a_new_data_directory_that_takes_no_byte(cluster, tmp_path, options, words):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", tmp_path], capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a file system")
    try:
        if options != "ro":
            subprocess.run(["dd", "if=/dev/zero", f"of={tmp_path}/filler"], capture_output=True)
        for command in (broker_command(cluster, tmp_path), controller_command(cluster, tmp_path)):
            check_refused(command, words)
    finally:
        wait_until(lambda: unmounted(tmp_path), f"{tmp_path} to be unmounted")


def test_a_damaged_identity(cluster):
    identity = cluster.data / "broker-1" / "broker.id"
    cluster.kill("broker")
    good = identity.read_bytes()
    try:
        identity.write_bytes(b"\xff\xfe not an id")
        check_refused(broker_command(cluster, cluster.data / "broker-1", number=1), str(identity))
    finally:
        identity.write_bytes(good)
        cluster.start("broker")
    cluster.wait_ready()


def test_damage_in_a_controllers_files_is_noticed(cluster):
    """Any one file of a stopped controller overwritten: it starts (what it lost comes from the others) or says why not."""
    number = 3
    cluster.kill("controller", number)
    directory = cluster.data / f"controller-{number}"
    files = [path for path in sorted(directory.glob("**/*")) if path.is_file() and path.stat().st_size > 0]
    assert files
    flags = {
        "id": number, "listen": f"127.0.0.1:{cluster.port + 3000 + number - 1}",
        "peers": ",".join(f"{i}=127.0.0.1:{cluster.port + 3000 + i - 1}" for i in (1, 2, 3)),
        "metrics": f"127.0.0.1:{cluster.metrics_port('controller', number)}", "data": directory,
        "secret-file": cluster.data / "secret",
    }
    command = [str(cluster.binary("millrace-controller")), "serve", *as_flags(flags)]
    try:
        for path in files:
            good = path.read_bytes()
            path.write_bytes(b"\xa5" * len(good))
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            try:
                _, errors = process.communicate(timeout=3)
                lines = [line for line in errors.splitlines() if line.strip() and not LOG_LINE.match(line)]
                assert process.returncode > 0 and len(lines) == 1, (path, process.returncode, lines)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
            path.write_bytes(good)
    finally:
        cluster.start("controller", number)
    cluster.wait_ready("controller", number)


def test_sigterm_ends_a_broker_and_a_controller_well(cluster, tmp_path):
    metrics = spare_port(cluster, 100)
    commands = [
        broker_command(cluster, tmp_path / "broker", metrics=f"127.0.0.1:{metrics}"),
        controller_command(cluster, tmp_path / "controller", metrics=f"127.0.0.1:{metrics}"),
    ]
    for command in commands:
        process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: process.poll() is not None or not is_free(metrics), "the process to serve metrics")
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS_MAX) == 0
        finally:
            process.kill()


def test_records_are_there_after_an_orderly_restart(cluster, topic):
    create_topic(cluster.bootstrap, topic)
    records = [Record(b"%d" % number) for number in range(1000)]
    LIBRARIES["confluent-kafka"].produce(cluster.bootstrap, topic, records)
    cluster.stop()
    cluster.run()
    assert LIBRARIES["kafka-python"].fetch(cluster.bootstrap, topic, 1000) == records
    LIBRARIES["confluent-kafka"].produce(cluster.bootstrap, topic, [Record(b"next")])
    assert LIBRARIES["kafka-python"].fetch(cluster.bootstrap, topic, 1001)[1000].offset == 1000


def unmounted(directory):
    return subprocess.run(["umount", directory], capture_output=True).returncode == 0


@pytest.fixture
def small_disk(cluster):
    """Puts a file system of 96 MB under the broker's data, where this user may mount one."""
    directory = cluster.data / "broker-1"
    image = cluster.data / "small-disk.img"
    cluster.kill("broker")
    kept = cluster.data / "broker-1-kept"
    try:
        image.write_bytes(b"")
        with image.open("r+b") as file:
            file.truncate(96 << 20)
        try:
            made = subprocess.run(["mkfs.ext4", "-q", image], capture_output=True).returncode == 0
        except FileNotFoundError:
            made = False
        directory.rename(kept)
        directory.mkdir()
        mounted = made and subprocess.run(["mount", "-o", "loop", image, directory], capture_output=True).returncode == 0
        if not mounted:
            pytest.skip("this user may not mount a file system")
        try:
            subprocess.run(["cp", "-a", f"{kept}/.", directory], check=True)
            cluster.start("broker")
            cluster.wait_ready()
            yield directory
            cluster.kill("broker")
        finally:
            # The kernel lets go of a killed process's files a moment after the process is gone.
            wait_until(lambda: unmounted(directory), f"{directory} to be unmounted")
    finally:
        if kept.exists():
            directory.rmdir()
            kept.rename(directory)
        cluster.start("broker")
        cluster.wait_ready()


def test_a_full_disk_is_an_error_and_not_a_loss(cluster, topic, small_disk):
    create_topic(cluster.bootstrap, topic)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(30 << 20))
    producer = kafka.KafkaProducer(bootstrap_servers=cluster.bootstrap, retries=2, delivery_timeout_ms=10_000,
                                   request_timeout_ms=3_000, enable_idempotence=False, acks="all")
    acknowledged = 0
    with pytest.raises(kafka.errors.KafkaError):
        for number in range(1000):
            assert producer.send(topic, b"%d " % number + bytes(500_000)).get(60).offset == number
            acknowledged += 1
    producer.close(timeout=1)
    assert 0 < acknowledged < 1000
    assert cluster.is_running(), "a full disk is no reason to die"
    wait_until(lambda: stalled_partitions(cluster) == 1, "the partition to be shown as stalled")
    fetched = LIBRARIES["confluent-kafka"].fetch(cluster.bootstrap, topic, acknowledged)
    assert [int(record.value.split(b" ")[0]) for record in fetched] == list(range(acknowledged))
    # What fills the disk goes, and the partition takes records again without a restart.
    ballast.unlink()
    producer = kafka.KafkaProducer(bootstrap_servers=cluster.bootstrap, acks="all", delivery_timeout_ms=60_000)
    offset = producer.send(topic, b"last").get(60).offset
    assert offset >= acknowledged
    producer.close()
    fetched = LIBRARIES["confluent-kafka"].fetch(cluster.bootstrap, topic, offset + 1)
    assert fetched[offset].value == b"last"
    wait_until(lambda: stalled_partitions(cluster) == 0, "the partition to be shown as well again")


def stalled_partitions(cluster):
    page = cluster.http("broker", 1, "/metrics") or ""
    return sum(int(count) for count in re.findall(r"^millrace_partitions_stalled\{.*\} (\d+)$", page, re.MULTILINE))


@pytest.mark.parametrize("command", [broker_command, controller_command])
def test_a_program_whose_log_finds_no_room_goes_on(cluster, tmp_path, command):
    """Its log is on the disk that its records fill, most likely."""
    metrics = f"127.0.0.1:{spare_port(cluster, 70)}"
    words = command(cluster, tmp_path / "data", metrics=metrics)
    with open("/dev/full", "wb") as full, subprocess.Popen(list(map(str, words)), stdout=full, stderr=full) as process:
        try:
            wait_until(lambda: process.poll() is not None or answers(metrics), "a page or an end")
            # Long enough for the lines of a start.
            time.sleep(3)
            assert process.poll() is None
        finally:
            process.terminate()


def answers(address):
    host, port = address.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
