"""Checks the messages of nodes: every message from a node, and every request at the manager's port,
passes here before anything is done with it.

A certificate proves who speaks, not that the message makes sense: a host that was broken into keeps
its certificate. Stored values are shown to all users and sent to all nodes, so each field has a
range. This file checks a message by itself. Checks against the state are made where the state is at
hand (`address_owners` below; tasks of other nodes: `statuses.merged`).

Most ranges are far wider than an honest node needs. A value beyond its range is refused with an
error that names the field. Error texts are cut instead, since honest ones can be long."""

import re
from collections.abc import Iterable, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import TypeVar, cast

import msgspec

from weft.errors import FailedPrecondition, InvalidArgument
from weft.model.attached import AttachmentWanted
from weft.model.capture import CaptureFrame
from weft.model.cluster import Cluster
from weft.model.engine_state import EngineFailure, EngineState
from weft.model.finding import MOST_FINDINGS, Examination, Finding
from weft.model.flows import FlowsFrame, Observation
from weft.model.generic import MAX_RESOURCES, MAX_TEXT
from weft.model.ids import NodeId, TaskId
from weft.model.node import NodeDescription, NodeState
from weft.model.state import ClusterState
from weft.model.task import TaskState, TaskStatus
from weft.model.text import cut
from weft.model.top import TopFrame
from weft.session.base import (
    AdmissionRequest,
    AttachmentRequest,
    MemberRequest,
    PublishRequest,
)
from weft.session.messages import (
    MAX_FAILURES,
    MAX_ROUTES,
    MAX_STATUSES,
    CertificateRequest,
    EngineStateFrame,
    ExaminationFrame,
    Goodbye,
    Heartbeat,
    Hello,
    LogLines,
    NodeFarewell,
    ProbeFrame,
    StatusUpdate,
    StreamEnd,
    TraceFrame,
)

INT64 = 2**63 - 1
"""The limit of Docker's API: with a larger number no client can read the whole list."""
MAX_MTU = 1 << 16
"""The MTU of a loopback interface."""
MAX_HOSTNAME = 255
MAX_WORD = 128
"""Characters of an id, a version, a platform, a fingerprint."""
MAX_LABELS, MAX_LABEL_KEY, MAX_LABEL_VALUE, MAX_LABELS_TOGETHER = 256, 256, 4096, 65536
"""Number of engine labels; characters of a key, of a value, and of all labels together."""
MAX_NANO_CPUS, MAX_MEMORY = 10**6 * 10**9, 2**60
"""A million processors and an exbibyte."""
MAX_CSR = 16 << 10
MAX_TOKEN = 256
MAX_REASON = 1000
"""Characters kept of the reason of a goodbye, of an error that ends a stream, and of a failure."""
MAX_INTERFACES = 10_000
"""Entries of each kind in a frame of a capture."""
MAX_INTERFACE = 300
"""Characters of an interface's name, which has a task's or a network's name in it."""
MAX_PORTS = 1000
"""Ports of one task."""
MAX_LINES, MAX_LINE = 4096, 64 << 10
"""Lines in one message, and bytes of one line. Publishers cut lines at 16 KiB and send 64 KiB at a
time."""
MAX_ALIASES = 256
"""Names that a user gives one attached container."""
MAX_ITEMS = 256
"""Items of a list in a passage; a walk has at most a hundred steps."""
MAX_KINDS = 64
"""Kinds of streams that a node may publish."""
EARLIER_EPOCH = (
    "this manager is of epoch {own} of the cluster, and docker swarm init --force-new-cluster has"
    " begun epoch {epoch} without it"
)
REPORTED = frozenset(s for s in TaskState if TaskState.ASSIGNED < s <= TaskState.REJECTED)
"""The task states that a node may report."""
OPEN = "cannot open session"
REFUSED = {
    "Hello": OPEN,
    "AdmissionRequest": "cannot join swarm",
    "AttachmentRequest": "cannot attach container",
}
"""The beginning of an error text, by kind of message."""
_ID = re.compile(r"[0-9a-zA-Z_.-]{1,64}")
_THIS_NETWORK = IPv4Network("0.0.0.0/8")

M = TypeVar("M")


def check_epoch(cluster: Cluster, known: int) -> None:
    """`known`: the latest epoch that the node was told of. Raises `FailedPrecondition`."""
    if known > cluster.epoch:
        raise FailedPrecondition(EARLIER_EPOCH.format(epoch=known, own=cluster.epoch))


def checked(message: M, source: str = "") -> M:
    """The message, with long error and status texts cut. `source`: the IP address that the message
    came from, if the message names an address. Raises `InvalidArgument`, naming the field."""
    try:
        return cast(M, _checked(message, source))
    except InvalidArgument as cause:
        kind = type(message).__name__
        raise InvalidArgument(f"{REFUSED.get(kind, f'cannot accept {kind}')}: {cause}") from None


def _checked(message: object, source: str) -> object:
    match message:
        case Heartbeat() | NodeFarewell():
            return message
        case Hello():
            return _hello(message, source)
        case StatusUpdate(number, statuses):
            _within("number", number, INT64)
            return msgspec.structs.replace(message, statuses=_statuses(statuses))
        case CertificateRequest(csr, address):
            _shorter("csr", csr, MAX_CSR)
            _shorter("address", address, MAX_WORD)
        case Goodbye(reason):
            return Goodbye(cut(reason, MAX_REASON))
        case LogLines(lines):
            _lines(message, lines)
        case TraceFrame(passage):
            _plain("passage", msgspec.to_builtins(passage, enc_hook=str))
        case ProbeFrame():
            _plain("probe", msgspec.to_builtins(message, enc_hook=str))
        case EngineStateFrame(state):
            return EngineStateFrame(_engine_state(state))
        case CaptureFrame():
            return _capture(message)
        case FlowsFrame():
            return _flows(message)
        case TopFrame():
            return _top(message)
        case ExaminationFrame(time, examination):
            _within("time", time, INT64)
            return ExaminationFrame(time, examination and _examination(examination))
        case StreamEnd(error):
            return StreamEnd(cut(error, MAX_REASON))
        case AdmissionRequest():
            _admission(message, source)
        case AttachmentRequest(id=id, wanted=wanted, ended=ended):
            _task(id)
            _attachment(wanted)
            return msgspec.structs.replace(message, ended=_statuses(ended))
        case MemberRequest(peer_url=url, manager_address=address, epoch=epoch):
            _within("epoch", epoch, INT64)
            _word("peer URL", url)
            _word("manager address", address)
        case PublishRequest(node=node, publish=publish):
            _word("node", node)
            _word("subscription", publish.subscription)
            _word("manager", publish.manager)
        case _:
            raise InvalidArgument(f"message {type(message).__name__} is not one that a node sends")
    return message


def data_path_address(address: IPv4Address, source: str) -> IPv4Address:
    """The address, if VXLAN packets can be sent there. Raises `InvalidArgument`. A loopback address
    works only between daemons on one host. A link-local address is accepted, as in Docker Swarm,
    which refuses only 0.0.0.0."""
    if address in _THIS_NETWORK or address.is_multicast or address.is_reserved:
        raise InvalidArgument(f"data path address {address} is not the address of a host")
    if address.is_loopback and source and not _is_loopback(source):
        raise InvalidArgument(f"data path address {address} cannot be reached from other hosts")
    return address


def address_owners(
    state: ClusterState,
    node: NodeId,
    address: IPv4Address,
    connected: Iterable[NodeId],
    source: str,
) -> list[NodeId]:
    """Nodes that seem to be up and have claimed the data path address that `node` claims now.
    Raises `InvalidArgument` if they are to be believed. `source`: the address that the session of
    `node` comes from; `connected`: nodes with a session with this manager.

    A claim is believed if the session comes from the claimed address, because no other host can
    have a session from there. The host may have left the swarm and joined again as another node. A
    node whose session comes from elsewhere, over a network of its own, has no proof, and must not
    get another node's packets."""
    others = [
        other
        for other in state.nodes.values()
        if other.data_path_address == address and other.id != node
        and other.status.state in (NodeState.READY, NodeState.DISCONNECTED)
    ]  # fmt: skip
    for other in others:
        is_there = other.status.address == str(address) and other.id in connected
        if source != str(address) or is_there:
            raise InvalidArgument(f"{OPEN}: data path address {address} is that of node {other.id}")
    return [other.id for other in others]


# --- kinds


def _hello(hello: Hello, source: str) -> Hello:
    _description(hello.description)
    try:
        address = IPv4Address(hello.data_path_address)
    except AddressValueError:
        shown = cut(hello.data_path_address, MAX_WORD)
        raise InvalidArgument(f"data path address {shown!r} is not an IPv4 address") from None
    data_path_address(address, source)
    _at_most("routes", len(hello.routes), MAX_ROUTES)
    for route in hello.routes:
        _word("route", route)
    _within("MTU", hello.underlay_mtu, MAX_MTU)
    _word("trusted root", hello.trusted)
    _within("epoch", hello.epoch, INT64)
    _at_most("kinds of streams", len(hello.publishes), MAX_KINDS)
    for kind in hello.publishes:
        _word("kind of stream", kind)
    return msgspec.structs.replace(hello, ended=_statuses(hello.ended))


def _description(description: NodeDescription) -> None:
    hostname("hostname", description.hostname)
    _word("operating system", description.os)
    _word("architecture", description.architecture)
    _word("engine version", description.engine_version)
    resources = description.resources
    _within("processors", resources.nano_cpus, MAX_NANO_CPUS)
    _within("memory", resources.memory, MAX_MEMORY)
    _within("processes", resources.pids, INT64)
    _at_most("generic resources", len(resources.generic), MAX_RESOURCES)
    for resource in resources.generic:
        _printable("kind of resource", resource.kind, MAX_TEXT)
        _printable(f"resource {resource.kind}", resource.name, MAX_TEXT)
        _within(f"resource {resource.kind}", resource.amount, INT64)
    labels = description.engine_labels
    _at_most("labels", len(labels), MAX_LABELS)
    for key, value in labels.items():
        _printable("label", key, MAX_LABEL_KEY)
        _printable(f"label {key}", value, MAX_LABEL_VALUE)
    _at_most(
        "characters of labels", sum(map(len, (*labels, *labels.values()))), MAX_LABELS_TOGETHER
    )


def _admission(request: AdmissionRequest, source: str) -> None:
    _shorter("token", request.token, MAX_TOKEN)
    _shorter("csr", request.csr, MAX_CSR)
    hostname("hostname", request.hostname)
    _word("advertise address", request.advertise_address)
    data_path_address(request.data_path_address, source)


def _attachment(wanted: AttachmentWanted) -> None:
    _printable("network", wanted.network, MAX_HOSTNAME)
    container = wanted.container
    if not _ID.fullmatch(container.container):
        raise InvalidArgument("the container has an id that is none")
    hostname("name of the container", container.name)
    hostname("host name of the container", container.hostname)
    _at_most("aliases", len(container.aliases), MAX_ALIASES)
    for alias in container.aliases:
        hostname("alias", alias)


def _statuses(
    statuses: Sequence[tuple[TaskId, TaskStatus]],
) -> tuple[tuple[TaskId, TaskStatus], ...]:
    _at_most("statuses", len(statuses), MAX_STATUSES)
    return tuple((_task(id), _status(id, status)) for id, status in statuses)


def _status(task: TaskId, status: TaskStatus) -> TaskStatus:
    if status.state not in REPORTED:
        raise InvalidArgument(f"state {status.state.name} of task {task} is not a node's to say")
    _within("timestamp", status.timestamp, INT64)
    _within("unhealthy since", status.unhealthy_since, INT64)
    _at_most("ports", len(status.ports), MAX_PORTS)
    for port in status.ports:
        _word("port", port.name)
    if status.container is not None:
        if not _ID.fullmatch(status.container.id):
            raise InvalidArgument(f"container of task {task} has an id that is none")
        _within("pid", status.container.pid, 2**31)
        _within("exit code", abs(status.container.exit_code), 2**31)
    return status.cut()


def _engine_state(state: EngineState) -> EngineState:
    _word("version", state.version)
    _at_most("failures", len(state.failures), MAX_FAILURES)
    counts = {"revision": state.revision, "sandboxes": state.sandboxes}
    counts |= {"networks": state.networks, "failed": state.failed}
    for field, number in counts.items():
        _within(field, number, INT64)
    failures = tuple(
        EngineFailure(cut(each.operation, MAX_REASON), cut(each.cause, MAX_REASON))
        for each in state.failures
    )
    return msgspec.structs.replace(state, failures=failures)


def _capture(frame: CaptureFrame) -> CaptureFrame:
    _within("clock", frame.now, INT64)
    counts = {"opened": frame.opened, "packets": frame.packets, "dropped": frame.dropped}
    for field, entries in counts.items():
        _at_most(field, len(entries), MAX_INTERFACES)
        for number, *_ in entries:
            _within("interface", number, INT64)
    for _, name in frame.opened:
        _printable("interface", name, MAX_INTERFACE)
    for _, packets in frame.dropped:
        _within("dropped packets", packets, INT64)
    _at_most("failed", len(frame.failed), MAX_INTERFACES)
    return msgspec.structs.replace(
        frame, failed=tuple(cut(text, MAX_REASON) for text in frame.failed)
    )


def _flows(frame: FlowsFrame) -> FlowsFrame:
    _within("clock", frame.now, INT64)
    for field, entries in {"opened": frame.opened, "closed": frame.closed}.items():
        _at_most(field, len(entries), MAX_INTERFACES)
    for number, name in frame.opened:
        _within("place", number, INT64)
        _printable("place", name, MAX_INTERFACE)
    for party in frame.parties:
        for text in (party.address, party.name, party.service):
            _printable("party", text, MAX_INTERFACE)
    counts = (frame.uncounted, frame.left_out, frame.lost, *frame.closed)
    for number in counts:
        _within("number", number, INT64)
    for seen in frame.seen:
        _observation(seen, len(frame.parties))
    _at_most("failed", len(frame.failed), MAX_INTERFACES)
    return msgspec.structs.replace(frame, failed=tuple(_line(text) for text in frame.failed))


def _top(frame: TopFrame) -> TopFrame:
    _within("clock", frame.now, INT64)
    for field, entries in {"tasks": frame.tasks, "networks": frame.networks}.items():
        _at_most(field, len(entries), MAX_INTERFACES)
        for entry in entries:
            _counts(entry)
    _at_most("ways", len(frame.ways), MAX_INTERFACES)
    for way in frame.ways:
        _word("node", way.node)
        _within("round trip", way.round_trip + 1, INT64)
    for number in (frame.names_answered, frame.names_failed, frame.left_out):
        _within("number", number, INT64)
    if frame.underlay is not None:
        _counts(frame.underlay)
    _at_most("failed", len(frame.failed), MAX_INTERFACES)
    return msgspec.structs.replace(frame, failed=tuple(_line(text) for text in frame.failed))


def _counts(value: object) -> None:
    """Names, and numbers of 64 bits as the kernel has them."""
    for part in msgspec.structs.astuple(value) if isinstance(value, msgspec.Struct) else ():
        if isinstance(part, str):
            _printable("name", part, MAX_INTERFACE)
        elif isinstance(part, int):
            _within("count", part, 2**64 - 1)
        else:
            _counts(part)


def _observation(seen: Observation, parties: int) -> None:
    _within("place", seen.place, INT64)
    _within("protocol", seen.protocol, 255)
    for side in (seen.asked, seen.carried):
        _within("party", max(side.source, side.target), parties - 1)
        _within("party", min(side.source, side.target), parties - 1)
        _within("port", max(side.source_port, side.target_port), 65535)
        _within("port", min(side.source_port, side.target_port), 65535)
    for number in (*(seen.sent or ()), *(seen.received or ())):
        _within("traffic", number, 2**64 - 1)


def _examination(said: Examination) -> Examination:
    _at_most("findings", len(said.findings), MOST_FINDINGS)
    findings = tuple(
        Finding(
            severity=each.severity,
            what=_line(each.what),
            cause=_line(each.cause),
            remedy=_line(each.remedy),
            peer=_line(each.peer),
        )
        for each in said.findings
    )
    return Examination(findings=findings, mended=tuple(map(_line, said.mended[:MOST_FINDINGS])))


def _line(text: str) -> str:
    """On one line, with characters that can be printed, and cut."""
    words = " ".join(text.split())
    return cut("".join(c if c.isprintable() else "?" for c in words), MAX_REASON)


def _lines(message: LogLines, lines: Sequence[object]) -> None:
    _at_most("lines", len(lines), MAX_LINES)
    for task, line in message.lines:
        _task(task)
        if line.stream not in (1, 2):
            raise InvalidArgument(f"stream {line.stream} is neither 1 (output) nor 2 (errors)")
        _within("timestamp", line.timestamp, INT64)
        _at_most("bytes of a line", len(line.data), MAX_LINE)


# --- fields


def hostname(field: str, text: str) -> None:
    """Checks a host name: printable characters without white space."""
    _printable(field, text, MAX_HOSTNAME)
    if any(character.isspace() for character in text):
        raise InvalidArgument(f"{field} {text!r} contains white space")


def _task(id: TaskId) -> TaskId:
    if not _ID.fullmatch(id):
        raise InvalidArgument("a task has an id that is none")
    return id


def _plain(field: str, value: object) -> None:
    """Any value of texts and numbers: of moderate length, and printable."""
    match value:
        case str():
            _printable(field, value, MAX_REASON)
        case int():
            _within(field, abs(value), INT64)
        case dict() | list() | tuple():
            _at_most(f"items of the {field}", len(value), MAX_ITEMS)
            parts = (*value, *value.values()) if isinstance(value, dict) else value
            for part in parts:
                _plain(field, part)


def _word(field: str, text: str) -> None:
    _printable(field, text, MAX_WORD)


def _printable(field: str, text: str, longest: int) -> None:
    _shorter(field, text, longest)
    if not text.isprintable():
        raise InvalidArgument(f"{field} {text!r} contains characters that cannot be printed")


def _shorter(field: str, text: str, longest: int) -> None:
    if len(text) > longest:
        raise InvalidArgument(f"{field} has {len(text)} characters, more than {longest}")


def _at_most(what: str, count: int, most: int) -> None:
    if count > most:
        raise InvalidArgument(f"{count} {what} are more than {most}")


def _within(field: str, number: int, most: int) -> None:
    if not 0 <= number <= most:
        raise InvalidArgument(f"{field} {number} is not between 0 and {most}")


def _is_loopback(source: str) -> bool:
    try:
        return IPv4Address(source).is_loopback
    except AddressValueError:
        return False
