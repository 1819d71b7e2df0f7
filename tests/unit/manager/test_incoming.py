"""What a node may say: the ranges of every field, and whose an address is."""

import contextlib
from ipaddress import IPv4Address
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import InvalidArgument
from weft.manager import incoming
from weft.manager.incoming import address_owners, checked
from weft.model.attached import AttachedContainer, AttachmentWanted
from weft.model.capture import CaptureFrame
from weft.model.container import LogLine
from weft.model.engine_state import EngineFailure, EngineState
from weft.model.finding import ORDER, Examination, Finding
from weft.model.flows import FlowsFrame, Observation, Party, PartySides, Traffic
from weft.model.generic import GenericResource
from weft.model.ids import ContainerId, NodeId, TaskId
from weft.model.logs import LogsWanted
from weft.model.node import Node, NodeDescription, NodeState, NodeStatus
from weft.model.service import PublishedPort, Resources
from weft.model.state import ClusterState
from weft.model.task import MAX_TEXT, ContainerStatus, TaskState, TaskStatus
from weft.model.top import Carried, NetworkCounts, TaskCounts, TcpCounts, TopFrame, Way
from weft.model.trace import Datagram, Packet, Passage, Sent, Step, StepKind
from weft.session.base import (
    AdmissionRequest,
    AttachmentRequest,
    MemberRequest,
    PublishRequest,
)
from weft.session.messages import (
    MAX_STATUSES,
    CertificateRequest,
    EngineStateFrame,
    ExaminationFrame,
    FromAgent,
    FromPublisher,
    Goodbye,
    Heartbeat,
    Hello,
    LogLines,
    LogsRequest,
    NodeFarewell,
    ProbeFrame,
    Publish,
    StatusUpdate,
    StreamEnd,
    TraceFrame,
)

HELLO = Hello(
    node=NodeId("n1"),
    description=NodeDescription(
        hostname="web-1.example.org", resources=Resources(64 * 10**9, 512 << 30), engine_version="0.1.0",
        engine_labels={"zone": "eu-west 1", "größe": "groß"},
    ),
    data_path_address="10.0.0.5", routes=("10.0.0.0/8",), underlay_mtu=1500, trusted="ab" * 32, epoch=3,
    ended=((TaskId("t" * 25), TaskStatus(TaskState.FAILED, 1, "started", "task: non-zero exit (1)")),),
)  # fmt: skip
STATUS = TaskStatus(
    TaskState.RUNNING, 1, "started", container=ContainerStatus(ContainerId("ab" * 32), 4711, 0),
    ports=(PublishedPort(80, 8080, mode="host"),),
)  # fmt: skip
ADMISSION = AdmissionRequest(
    token="SWMTKN-1-abc-def", csr="-----BEGIN", hostname="web-1", data_path_address=IPv4Address("10.0.0.5"),
    advertise_address="10.0.0.5",
)  # fmt: skip
ENGINE = EngineState(
    version="0.1.0", revision=7, settled=True, sandboxes=3, networks=2, failures=(EngineFailure("add link", "no such device"),),
    failed=1,
)  # fmt: skip
CAPTURED = CaptureFrame(
    now=1, opened=((0, "webapp.1/eth0"),), packets=((0, b"x"),), dropped=((0, 3),), failed=("db.1/eth0: gone",)
)  # fmt: skip
PLACE = AttachmentRequest(
    id=TaskId("t1"),
    wanted=AttachmentWanted(
        network="net", container=AttachedContainer(container=ContainerId("ab" * 32), name="web-1", aliases=("db",))
    ),
    ended=((TaskId("t2"), TaskStatus(TaskState.COMPLETE, 1, "detached")),),
)  # fmt: skip
EXAMINATION = Examination(
    findings=(Finding(severity="error", what="clock", cause="it is ahead", peer="192.0.2.1"),), mended=("a table",)
)  # fmt: skip
PACKET = Packet("tcp", IPv4Address("10.0.1.6"), 40000, IPv4Address("10.0.1.3"), 80)

TASK = TaskCounts(
    "web.1", "web", Carried(1, 2**64 - 1), Carried(), Carried(), TcpCounts(1, 2, 3, 4, 5, 6)
)
TOP = TopFrame(
    now=1, tasks=(TASK,), networks=(NetworkCounts("net", Carried(1)),), ways=(Way("n2", -1), Way("n3", 5)),
    underlay=Carried(1), names_answered=3, names_failed=1, failed=("gone",), is_last=True,
)  # fmt: skip
SIDES = PartySides(0, 4000, 1, 80)
FLOWS = FlowsFrame(
    now=1, opened=((1, "webapp.1"),), closed=(2,), failed=("db.1: gone",),
    parties=(Party("10.0.1.5", "task", "app.1", "app"), Party("10.0.1.2", "service", "web")),
    seen=(Observation(1, 6, SIDES, SIDES, "open", Traffic(3, 2**64 - 1)),),
)  # fmt: skip


def passage(words: str = "sends", steps: int = 1) -> TraceFrame:
    step = Step("1f0c3a", "eth0", StepKind.SEND, words, PACKET)
    exit = Sent("ens160", IPv4Address("10.0.0.5"), Datagram(packet=PACKET))
    return TraceFrame(Passage(steps=(step,) * steps, exit=exit, labels={"1f0c3a": "web.1"}))


GOOD = (
    passage(),
    PLACE, ExaminationFrame(5), ExaminationFrame(5, EXAMINATION),
    HELLO, Heartbeat(), StatusUpdate(1, ((TaskId("t1"), STATUS),)), CertificateRequest("-----BEGIN", "10.0.0.5"),
    NodeFarewell("leaving"),
    Goodbye("agent ends the session"), LogLines(((TaskId("t1"), LogLine(1, 1, b"hello\n")),)), StreamEnd("cannot read"),
    FLOWS, ProbeFrame(time=5), TOP,
    EngineStateFrame(ENGINE), CAPTURED, ADMISSION, MemberRequest(peer_url="https://10.0.0.5:2380", manager_address="10.0.0.5:2377"),
    PublishRequest(
        node=NodeId("n1"),
        publish=Publish(subscription="s", manager="10.0.0.1:2377", request=LogsRequest(wanted=LogsWanted())),
    ),
)  # fmt: skip


def place(network: str = "net", **container: Any) -> AttachmentRequest:
    changed = msgspec.structs.replace(PLACE.wanted.container, **container)
    wanted = msgspec.structs.replace(PLACE.wanted, network=network, container=changed)
    return msgspec.structs.replace(PLACE, wanted=wanted)


def description(**fields: Any) -> Hello:
    return msgspec.structs.replace(
        HELLO, description=msgspec.structs.replace(HELLO.description, **fields)
    )


def hello(**fields: Any) -> Hello:
    return msgspec.structs.replace(HELLO, **fields)


def update(id: str = "t1", **fields: Any) -> StatusUpdate:
    return StatusUpdate(1, ((TaskId(id), msgspec.structs.replace(STATUS, **fields)),))


def examination(**fields: Any) -> ExaminationFrame:
    return ExaminationFrame(1, Examination(findings=(finding(**fields),) * fields.pop("count", 1)))


def finding(**fields: Any) -> Finding:
    fields.pop("count", None)
    return Finding(**{"severity": "error", "what": "clock", "cause": "ahead", **fields})


def engine(**fields: Any) -> EngineStateFrame:
    return EngineStateFrame(msgspec.structs.replace(ENGINE, **fields))


def captured(**fields: Any) -> CaptureFrame:
    return msgspec.structs.replace(CAPTURED, **fields)


def lines(
    *, count: int = 1, task: str = "t1", stream: int = 1, at: int = 1, data: bytes = b"x\n"
) -> LogLines:
    return LogLines(((TaskId(task), LogLine(stream, at, data)),) * count)


@pytest.mark.parametrize("message", GOOD, ids=lambda m: type(m).__name__)
def test_what_honest_nodes_say_is_taken_as_it_is(message: object) -> None:
    assert checked(message, "10.0.0.5") == message


def test_every_kind_that_a_node_may_send_is_checked() -> None:
    kinds = {type(message) for message in GOOD}
    assert {*FromAgent.__args__, *FromPublisher.__args__} <= kinds
    with pytest.raises(InvalidArgument, match="Node is not one that a node sends"):
        checked(Node(id=NodeId("n1")))


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        *((hello(data_path_address=text), f"cannot open session: data path address {text} is not the address of a host")
          for text in ("0.0.0.0", "0.1.2.3", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255")),
        (hello(data_path_address="127.0.0.1"), "cannot open session: data path address 127.0.0.1 cannot be reached from"),
        (hello(data_path_address="here"), "'here' is not an IPv4 address"),
        (hello(data_path_address="1" * 10**6), "is not an IPv4 address"),
        (hello(routes=("10.0.0.0/8",) * 1001), "1001 routes are more than 1000"),
        (hello(underlay_mtu=65537), "MTU 65537 is not between 0 and 65536"),
        (hello(routes=("x" * 200,)), "route has 200 characters"),
        (hello(trusted="x" * 200), "trusted root has 200 characters"),
        (hello(epoch=-1), "epoch -1 is not between 0 and"),
        (hello(epoch=2**63), "epoch"),
        (hello(ended=HELLO.ended * (MAX_STATUSES + 1)), "2001 statuses are more than 2000"),
        (description(hostname="x" * 4_000_000), "cannot open session: hostname has 4000000 characters, more than 255"),
        (description(hostname="web\x1b[2J"), "contains characters that cannot be printed"),
        (description(hostname="web 1"), "white space"),
        (description(os="x" * 200), "operating system has 200"),
        (description(architecture="\n"), "architecture"),
        (description(engine_version="x" * 200), "engine version"),
        (description(engine_labels={str(n): "" for n in range(200_000)}), "200000 labels are more than 256"),
        (description(engine_labels={"a": "x" * 5000}), "label a has 5000 characters"),
        (description(engine_labels={"x" * 300: ""}), "label has 300 characters"),
        (description(engine_labels={"a": "\x1b[2J"}), "label a"),
        (description(resources=Resources(generic=(GenericResource("a"),) * 257)), "257 generic resources are more"),
        (description(resources=Resources(generic=(GenericResource("a" * 129),))), "kind of resource has 129"),
        (description(resources=Resources(generic=(GenericResource("a", name="\n"),))), "resource a"),
        (description(resources=Resources(generic=(GenericResource("a", -1),))), "resource a"),
        (description(engine_labels={str(n): "x" * 4000 for n in range(20)}), "characters of labels are more than"),
        (description(resources=Resources(-1, 1)), "processors -1"),
        (description(resources=Resources(1, 2**63)), "memory"),
        (description(resources=Resources(2**64 - 1, 1)), "processors"),
        (description(resources=Resources(1, 1, -1)), "processes -1"),
        *((update(state=state), f"state {state.name} of task t1 is not a node's to say")
          for state in (TaskState.NEW, TaskState.PENDING, TaskState.ASSIGNED, TaskState.REMOVE, TaskState.ORPHANED)),
        (update(timestamp=2**63), "timestamp"),
        (update(timestamp=-1), "timestamp -1"),
        (update(id="t\x1b"), "a task has an id that is none"),
        (update(id=""), "a task has an id that is none"),
        (update(ports=STATUS.ports * 1001), "1001 ports"),
        (update(container=ContainerStatus(ContainerId("x" * 65))), "has an id that is none"),
        (update(container=ContainerStatus(ContainerId("a"), -1)), "pid -1"),
        (update(container=ContainerStatus(ContainerId("a"), 1, -(2**40))), "exit code"),
        (StatusUpdate(2**63, ()), "number"),
        (StatusUpdate(1, ((TaskId("t1"), STATUS),) * 2001), "cannot accept StatusUpdate: 2001 statuses"),
        (CertificateRequest("x" * 20_000), "csr has 20000 characters"),
        (CertificateRequest("x", "1" * 200), "address has 200"),
        (hello(publishes=("logs",) * 65), "65 kinds of streams are more than 64"),
        (hello(publishes=("x" * 200,)), "kind of stream has 200"),
        (passage("\x1b[2J"), "cannot accept TraceFrame: passage"),
        (passage("x" * 2000), "passage has 2000 characters"),
        (passage(steps=257), "257 items of the passage are more"),
        (engine(version="\n"), "cannot accept EngineStateFrame: version"),
        (examination(count=65), "cannot accept ExaminationFrame: 65 findings are more than 64"),
        (ExaminationFrame(-1), "cannot accept ExaminationFrame: time -1"),
        (engine(revision=2**63), "revision"),
        (engine(networks=-1), "networks -1"),
        (engine(failures=ENGINE.failures * 21), "21 failures are more than 20"),
        (captured(now=-1), "cannot accept CaptureFrame: clock -1"),
        (captured(opened=((0, "\x1b[2J"),)), "interface"),
        (captured(opened=((0, "x" * 301),)), "interface has 301"),
        (captured(opened=((-1, "x"),)), "interface -1"),
        (captured(packets=((2**63, b""),)), "interface"),
        (captured(dropped=((0, -1),)), "dropped packets -1"),
        (captured(packets=CAPTURED.packets * 10_001), "10001 packets are more than 10000"),
        (captured(failed=("x",) * 10_001), "10001 failed"),
        (lines(count=5000), "5000 lines are more than 4096"),
        (lines(stream=3), "stream 3 is neither"),
        (lines(at=2**63), "timestamp"),
        (lines(data=b"x" * 70_000), "70000 bytes of a line"),
        (lines(task="t\n"), "a task has an id that is none"),
        (msgspec.structs.replace(ADMISSION, token="x" * 300), "cannot join swarm: token has 300"),
        (msgspec.structs.replace(ADMISSION, csr="x" * 20_000), "csr has"),
        (msgspec.structs.replace(ADMISSION, hostname="x" * 300), "hostname has"),
        (msgspec.structs.replace(ADMISSION, data_path_address=IPv4Address("224.0.0.1")), "not the address of a host"),
        (msgspec.structs.replace(ADMISSION, advertise_address="\n"), "advertise address"),
        (MemberRequest(peer_url="x" * 200, manager_address="a:1"), "peer URL"),
        (MemberRequest(peer_url="https://a:1", manager_address="\n"), "manager address"),
        (msgspec.structs.replace(PLACE, id=TaskId("x" * 65)), "cannot attach container: a task has an id that is none"),
        (msgspec.structs.replace(PLACE, ended=((TaskId("t"), TaskStatus(TaskState.ORPHANED)),)), "is not a node's to say"),
        (place(network="\n"), "network"),
        (place(container=ContainerId("a/b")), "the container has an id that is none"),
        (place(name="x" * 300), "name of the container has 300"),
        (place(hostname="a b"), "host name of the container 'a b' contains white space"),
        (place(aliases=("a",) * 300), "300 aliases are more than 256"),
        (place(aliases=("a\n",)), "alias"),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_refused_with_the_field(message: object, cause: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        checked(message, "10.0.0.5")
    assert cause in str(refused.value)
    assert len(str(refused.value)) < 500


def test_texts_of_errors_are_cut_and_not_refused() -> None:
    long = "ö" * 10_000
    [(_, status)] = checked(update(err=long, message=long)).statuses
    assert (len(status.err), len(status.message)) == (MAX_TEXT, MAX_TEXT)
    assert status.err.endswith("ö…")
    [(_, ended)] = checked(
        hello(ended=((TaskId("t"), TaskStatus(TaskState.FAILED, err=long)),))
    ).ended
    assert len(ended.err) == MAX_TEXT
    assert len(checked(Goodbye(long)).reason) == incoming.MAX_REASON
    assert len(checked(StreamEnd(long)).error) == incoming.MAX_REASON
    failed = checked(engine(failures=(EngineFailure(long, long),))).state.failures
    assert [(len(each.operation), len(each.cause)) for each in failed] == [
        (incoming.MAX_REASON, incoming.MAX_REASON)
    ]


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.66", ""])
def test_loopback_is_good_between_daemons_of_one_host(source: str) -> None:
    assert checked(hello(data_path_address="127.0.0.9"), source)


NUMBERS = st.integers(-(2**63), 2**64 - 1)
DESCRIPTIONS = st.builds(
    NodeDescription, hostname=st.text(), os=st.text(), architecture=st.text(), engine_version=st.text(),
    resources=st.builds(Resources, NUMBERS, NUMBERS, NUMBERS), engine_labels=st.dictionaries(st.text(), st.text()),
)  # fmt: skip
STATUSES = st.builds(
    TaskStatus, st.sampled_from(TaskState), NUMBERS, st.text(), st.text(),
    st.none() | st.builds(ContainerStatus, st.text(), NUMBERS, NUMBERS),
)  # fmt: skip
REPORTS = st.lists(st.tuples(st.text(), STATUSES), max_size=3).map(tuple)
HELLOS = st.builds(
    Hello, node=st.text(), description=DESCRIPTIONS, data_path_address=st.text() | st.ip_addresses().map(str),
    routes=st.lists(st.text(), max_size=3).map(tuple), underlay_mtu=NUMBERS, trusted=st.text(), epoch=NUMBERS, ended=REPORTS,
    publishes=st.lists(st.text(), max_size=3).map(tuple),
)  # fmt: skip
ENGINES = st.builds(
    EngineState, version=st.text(), revision=NUMBERS, sandboxes=NUMBERS, networks=NUMBERS, failed=NUMBERS,
    failures=st.lists(st.builds(EngineFailure, st.text(), st.text()), max_size=3).map(tuple),
)  # fmt: skip
FINDINGS = st.builds(
    Finding, severity=st.sampled_from(ORDER), what=st.text(), cause=st.text(), remedy=st.text(), peer=st.text()
)  # fmt: skip
EXAMINATIONS = st.builds(
    Examination, findings=st.lists(FINDINGS, max_size=3).map(tuple), mended=st.lists(st.text(), max_size=3).map(tuple)
)  # fmt: skip
LINES = st.builds(LogLine, NUMBERS, NUMBERS, st.binary())


@given(
    HELLOS
    | st.builds(EngineStateFrame, ENGINES)
    | st.builds(ExaminationFrame, NUMBERS, st.none() | EXAMINATIONS)
    | st.builds(StatusUpdate, NUMBERS, REPORTS)
    | st.builds(LogLines, st.lists(st.tuples(st.text(), LINES)).map(tuple))
)
def test_whatever_is_said_is_taken_or_refused(message: object) -> None:
    with contextlib.suppress(InvalidArgument):
        taken = checked(message, "10.0.0.5")
        assert checked(taken, "10.0.0.5") == taken


# --- whose an address is

ADDRESS = IPv4Address("10.0.0.5")


def owners(
    state: NodeState,
    came_from: str,
    source: str,
    connected: tuple[str, ...] = ("old",),
    says: IPv4Address = ADDRESS,
) -> list[NodeId]:
    """Of node `new`, which comes from `source`, where node `old` came from `came_from` and said
    `says`."""
    old = Node(
        id=NodeId("old"), data_path_address=says, status=NodeStatus(state, address=came_from)
    )
    new = Node(id=NodeId("new"), data_path_address=ADDRESS)
    return address_owners(
        ClusterState([old, new]), new.id, ADDRESS, [NodeId(id) for id in connected], source
    )


@pytest.mark.parametrize("state", [NodeState.READY, NodeState.DISCONNECTED])
def test_nobody_gets_the_packets_of_a_node_that_is_up(state: NodeState) -> None:
    for came_from, source in (
        ("10.0.0.5", "10.0.0.6"),
        ("192.168.1.5", "10.0.0.6"),
        ("10.0.0.5", "10.0.0.5"),
    ):
        with pytest.raises(
            InvalidArgument,
            match="cannot open session: data path address 10.0.0.5 is that of node old",
        ):
            owners(state, came_from, source)


def test_who_comes_from_the_address_is_believed_and_who_only_said_so_is_not_any_more() -> None:
    assert owners(NodeState.READY, "10.0.0.66", "10.0.0.5") == ["old"]


def test_a_host_that_has_left_and_joined_again_is_another_node_at_once() -> None:
    """The manager has not noticed yet that the node which it was is gone."""
    assert owners(NodeState.READY, "10.0.0.5", "10.0.0.5", connected=()) == ["old"]
    assert owners(NodeState.DOWN, "10.0.0.5", "192.168.1.5") == []
    assert owners(NodeState.UNKNOWN, "", "192.168.1.5") == []


def test_other_addresses_concern_nobody() -> None:
    assert owners(NodeState.READY, "10.0.0.7", "10.0.0.5", says=IPv4Address("10.0.0.7")) == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"parties": ()}, "party 1 is not between 0 and -1"),
        ({"parties": (Party("10.0.1.5", "task", "x" * 301),) * 2}, "party has 301 characters"),
        ({"parties": (Party("10.0.1.5", "task", "a\nb"),) * 2}, "cannot be printed"),
        ({"opened": ((-1, "x"),)}, "place -1 is not between"),
        ({"lost": -1}, "number -1 is not between"),
        ({"now": -1}, "clock -1 is not between"),
    ],
)
def test_what_is_wrong_with_flows(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        checked(msgspec.structs.replace(FLOWS, **fields))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"protocol": 256}, "protocol 256 is not between"),
        ({"place": -1}, "place -1 is not between"),
        ({"asked": PartySides(0, 65536, 1, 80)}, "port 65536 is not between"),
        ({"carried": PartySides(-1, 1, 1, 80)}, "party -1 is not between"),
        ({"sent": Traffic(-1, 0)}, "traffic -1 is not between"),
    ],
)
def test_what_is_wrong_with_an_observation(change: dict[str, Any], text: str) -> None:
    (seen,) = FLOWS.seen
    with pytest.raises(InvalidArgument, match=text):
        checked(msgspec.structs.replace(FLOWS, seen=(msgspec.structs.replace(seen, **change),)))


def test_failures_of_flows_are_cut_to_one_line() -> None:
    frame = checked(msgspec.structs.replace(FLOWS, failed=("a\nb" * 1000,)))
    assert frame.failed[0].isprintable()
    assert len(frame.failed[0]) <= incoming.MAX_REASON


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"tasks": (msgspec.structs.replace(TASK, name="x" * 301),)}, "name has 301 characters"),
        ({"tasks": (msgspec.structs.replace(TASK, mesh=Carried(-1)),)}, "count -1 is not between"),
        ({"tasks": (msgspec.structs.replace(TASK, tcp=TcpCounts(2**64)),)}, "is not between"),
        ({"ways": (Way("n2", -2),)}, "round trip -1 is not between"),
        ({"ways": (Way("a\nb", 1),)}, "cannot be printed"),
        ({"underlay": Carried(errors=-1)}, "count -1 is not between"),
        ({"names_failed": -1}, "number -1 is not between"),
    ],
)
def test_what_is_wrong_with_counters(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        checked(msgspec.structs.replace(TOP, **fields))
