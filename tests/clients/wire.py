"""Just enough of Kafka's wire protocol to say wrong things in it: requests in their old, inflexible versions, written by hand."""

import socket
import struct
import time

import crc32c

PRODUCE, FETCH, LIST_OFFSETS, METADATA = 0, 1, 2, 3
OFFSET_COMMIT, OFFSET_FETCH, FIND_COORDINATOR = 8, 9, 10
API_VERSIONS, CREATE_TOPICS, DELETE_TOPICS, INIT_PRODUCER_ID = 18, 19, 20, 22
INCREMENTAL_ALTER_CONFIGS = 44

NONE = 0
OFFSET_OUT_OF_RANGE = 1
CORRUPT_MESSAGE = 2
UNKNOWN_TOPIC_OR_PARTITION = 3
NOT_LEADER_OR_FOLLOWER = 6
MESSAGE_TOO_LARGE = 10
UNSUPPORTED_VERSION = 35
TOPIC_ALREADY_EXISTS = 36
UNSUPPORTED_FOR_MESSAGE_FORMAT = 43
INVALID_RECORD = 87

TIMEOUT_SECONDS = 30


def i8(number):
    return struct.pack(">b", number)


def i16(number):
    return struct.pack(">h", number)


def i32(number):
    return struct.pack(">i", number)


def i64(number):
    return struct.pack(">q", number)


def string(text):
    return i16(-1) if text is None else i16(len(text.encode())) + text.encode()


def data(content):
    return i32(len(content)) + content


def array(*elements):
    return i32(len(elements)) + b"".join(elements)


def varint(number):
    zigzag = (number << 1) ^ (number >> 63)
    encoded = b""
    while zigzag > 0x7F:
        encoded += bytes([zigzag & 0x7F | 0x80])
        zigzag >>= 7
    return encoded + bytes([zigzag])


def header(api, version, correlation=1, client="hostile"):
    return i16(api) + i16(version) + i32(correlation) + string(client)


def frame(content):
    return i32(len(content)) + content


def record(value, offset_delta=0):
    body = i8(0) + varint(0) + varint(offset_delta) + varint(-1) + varint(len(value)) + value + varint(0)
    return varint(len(body)) + body


def batch(values, records=None, **wrong):
    """A record batch v2, right but for the fields that are named; `records` stands for the values' bytes."""
    if records is None:
        records = b"".join(record(value, delta) for delta, value in enumerate(values))
    # Records of long ago would be deleted by retention.
    now = time.time_ns() // 1_000_000
    fields = {
        "base_offset": 0, "leader_epoch": -1, "magic": 2, "attributes": 0, "last_offset_delta": len(values) - 1,
        "base_timestamp": now, "max_timestamp": now, "producer_id": -1,
        "producer_epoch": -1, "base_sequence": -1, "count": len(values), "crc": None, "length": None, **wrong,
    }
    summed = (
        i16(fields["attributes"]) + i32(fields["last_offset_delta"]) + i64(fields["base_timestamp"])
        + i64(fields["max_timestamp"]) + i64(fields["producer_id"]) + i16(fields["producer_epoch"])
        + i32(fields["base_sequence"]) + i32(fields["count"]) + records
    )
    crc = crc32c.crc32c(summed) if fields["crc"] is None else fields["crc"]
    rest = i32(fields["leader_epoch"]) + i8(fields["magic"]) + struct.pack(">I", crc) + summed
    length = len(rest) if fields["length"] is None else fields["length"]
    return i64(fields["base_offset"]) + i32(length) + rest


def produce_request(topic, records, partition=0, acks=-1):
    """Produce version 3."""
    partitions = array(i32(partition) + data(records))
    return header(PRODUCE, 3) + string(None) + i16(acks) + i32(10_000) + array(string(topic) + partitions)


def fetch_request(topic, partition=0, offset=0, wait_ms=100, bytes_max=1 << 20):
    """Fetch version 4."""
    partitions = array(i32(partition) + i64(offset) + i32(bytes_max))
    limits = i32(-1) + i32(wait_ms) + i32(1) + i32(bytes_max) + i8(0)
    return header(FETCH, 4) + limits + array(string(topic) + partitions)


def list_offsets_request(topic, partition=0, timestamp=-1):
    """ListOffsets version 1."""
    partitions = array(i32(partition) + i64(timestamp))
    return header(LIST_OFFSETS, 1) + i32(-1) + array(string(topic) + partitions)


def create_topic_request(topic, partitions=1, wait_ms=20_000):
    """CreateTopics version 2, of one topic."""
    return header(CREATE_TOPICS, 2) + array(string(topic) + i32(partitions) + i16(1) + array() + array()) + i32(wait_ms) + i8(0)


def delete_topic_request(topic, wait_ms=20_000):
    """DeleteTopics version 1, of one topic."""
    return header(DELETE_TOPICS, 1) + array(string(topic)) + i32(wait_ms)


def set_config_request(topic, name, value):
    """IncrementalAlterConfigs version 0: sets one config of a topic."""
    change = string(name) + i8(0) + string(value)
    return header(INCREMENTAL_ALTER_CONFIGS, 0) + array(i8(2) + string(topic) + array(change)) + i8(0)


def init_producer_id_request():
    """InitProducerId version 0, without transactions."""
    return header(INIT_PRODUCER_ID, 0) + string(None) + i32(60_000)


def find_coordinator_request(group):
    """FindCoordinator version 0."""
    return header(FIND_COORDINATOR, 0) + string(group)


def commit_request(group, topic, offset, partition=0):
    """OffsetCommit version 2, by a reader that assigns itself its partitions."""
    partitions = array(i32(partition) + i64(offset) + string(""))
    return header(OFFSET_COMMIT, 2) + string(group) + i32(-1) + string("") + i64(-1) + array(string(topic) + partitions)


def fetch_offset_request(group, topic, partition=0):
    """OffsetFetch version 2."""
    return header(OFFSET_FETCH, 2) + string(group) + array(string(topic) + array(i32(partition)))


def metadata_request(*topics):
    """Metadata version 1, of these topics."""
    return header(METADATA, 1) + array(*map(string, topics))


def all_metadata_request():
    """Metadata version 1, of all topics."""
    return header(METADATA, 1) + i32(-1)


class Answer:
    """Reads an answer's fields in order."""

    def __init__(self, content):
        self.content = content
        self.position = 0

    def take(self, form):
        (number,) = struct.unpack_from(f">{form}", self.content, self.position)
        self.position += struct.calcsize(f">{form}")
        return number

    def string(self):
        length = max(self.take("h"), 0)
        self.position += length
        return self.content[self.position - length:self.position].decode()

    def data(self):
        length = max(self.take("i"), 0)
        self.position += length
        return self.content[self.position - length:self.position]


class Connection:
    """A raw connection. `exchange` is for requests that are answered, `is_closed` for those that must not be."""

    def __init__(self, cluster, receive_buffer=None, broker=1, wait_seconds=TIMEOUT_SECONDS):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(wait_seconds)
        self.socket.connect(("127.0.0.1", cluster.port + broker - 1))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, content):
        self.socket.sendall(content)

    def exchange(self, request):
        self.send(frame(request))
        return self.answer()

    def answer(self):
        (length,) = struct.unpack(">i", self.receive(4))
        answer = Answer(self.receive(length))
        assert answer.take("i") == 1, "the answer to this request"
        return answer

    def receive(self, count):
        content = b""
        while len(content) < count:
            part = self.socket.recv(count - len(content))
            if not part:
                raise ConnectionError("closed by the broker")
            content += part
        return content

    def is_closed(self):
        """Whether the broker closes the connection without another byte."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def produce(self, topic, records, partition=0):
        """The error code and base offset of a produce request for one partition."""
        answer = self.exchange(produce_request(topic, records, partition))
        assert (answer.take("i"), answer.string(), answer.take("i"), answer.take("i")) == (1, topic, 1, partition)
        return answer.take("h"), answer.take("q")

    def fetch(self, topic, partition=0, offset=0):
        """The error code, high watermark and records of a fetch request for one partition."""
        answer = self.exchange(fetch_request(topic, partition, offset))
        answer.take("i")
        assert (answer.take("i"), answer.string(), answer.take("i"), answer.take("i")) == (1, topic, 1, partition)
        error, high_watermark = answer.take("h"), answer.take("q")
        answer.take("q")
        for _ in range(max(answer.take("i"), 0)):
            answer.take("q"), answer.take("q")
        return error, high_watermark, answer.data()

    def list_offsets(self, topic, partition=0):
        answer = self.exchange(list_offsets_request(topic, partition))
        assert (answer.take("i"), answer.string(), answer.take("i"), answer.take("i")) == (1, topic, 1, partition)
        return answer.take("h")

    def create_topic(self, topic, partitions=1, wait_ms=20_000):
        """The error code of a request to create one topic."""
        answer = self.exchange(create_topic_request(topic, partitions, wait_ms))
        answer.take("i")
        assert (answer.take("i"), answer.string()) == (1, topic)
        return answer.take("h")

    def delete_topic(self, topic, wait_ms=20_000):
        answer = self.exchange(delete_topic_request(topic, wait_ms))
        answer.take("i")
        assert (answer.take("i"), answer.string()) == (1, topic)
        return answer.take("h")

    def set_config(self, topic, name, value):
        answer = self.exchange(set_config_request(topic, name, value))
        assert (answer.take("i"), answer.take("i")) == (0, 1)
        return answer.take("h")

    def init_producer_id(self):
        """The error code and the new producer id."""
        answer = self.exchange(init_producer_id_request())
        answer.take("i")
        return answer.take("h"), answer.take("q")

    def coordinator(self, group):
        """The error code, and the port at which the group's coordinator is."""
        answer = self.exchange(find_coordinator_request(group))
        error, _, _ = answer.take("h"), answer.take("i"), answer.string()
        return error, answer.take("i")

    def commit(self, group, topic, offset):
        answer = self.exchange(commit_request(group, topic, offset))
        assert (answer.take("i"), answer.string(), answer.take("i"), answer.take("i")) == (1, topic, 1, 0)
        return answer.take("h")

    def fetch_offset(self, group, topic):
        """The error code and the committed offset, -1 where there is none."""
        answer = self.exchange(fetch_offset_request(group, topic))
        if answer.take("i") == 0:
            return answer.take("h"), -1
        assert (answer.string(), answer.take("i"), answer.take("i")) == (topic, 1, 0)
        offset, _, error = answer.take("q"), answer.string(), answer.take("h")
        return error or answer.take("h"), offset

    def leaders(self, topic):
        """The leader of each partition by what this broker knows, -1 where there is none."""
        return self.topics(metadata_request(topic))[topic]

    def topics(self, request):
        """By topic, the leader of each partition by what this broker knows."""
        answer = self.exchange(request)
        for _ in range(answer.take("i")):
            answer.take("i"), answer.string(), answer.take("i"), answer.string()
        answer.take("i")
        topics = {}
        for _ in range(answer.take("i")):
            error, name, _ = answer.take("h"), answer.string(), answer.take("b")
            assert error == NONE, f"metadata of {name} was refused with {error}"
            leaders = {}
            for _ in range(answer.take("i")):
                _, partition, leader = answer.take("h"), answer.take("i"), answer.take("i")
                for _ in range(2):
                    for _ in range(answer.take("i")):
                        answer.take("i")
                leaders[partition] = leader
            topics[name] = [leader for _, leader in sorted(leaders.items())]
        return topics
