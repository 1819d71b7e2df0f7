"""What a user asks to be traced: from which node a packet is sent, by whom, and where to.

A source is a task, a service (its first running task), a container, a node, or the address of one;
or somebody outside. A target is the same, a published port of a node (`node:port`, `:port`), or a
name, which the source's own resolver looks up. A container that is no task's is named with its node
(`node/container`, `/container`), since no manager knows it; it finds a target as a node does."""

import re
from collections.abc import Iterable
from functools import partial
from ipaddress import AddressValueError, IPv4Address
from typing import NamedTuple

from weft.errors import FailedPrecondition, InvalidArgument, NotFound, clip
from weft.model.ids import NodeId, TaskId
from weft.model.lookup import PREFIX, Found, matches
from weft.model.node import Node
from weft.model.service import Service
from weft.model.state import ClusterState
from weft.model.task import Task, TaskState
from weft.model.trace import ANY, Datagram, Entry, FromProcess, FromWire, Packet, TraceWanted

SOURCE_PORT = 40000
"""One that hardly any connection has at the moment; connections that exist are not looked at."""
HOST_NAMESPACE = "host"
SHORTEST_PREFIX = 4
"""Characters of an id that are enough to mean it."""
PROTOCOLS = ("tcp", "udp")
_PORT = re.compile(r"(?P<node>[^:]*):(?P<port>[0-9]{1,5})")

Thing = Task | Service | Node


class Question(NamedTuple):
    """The first thing to be asked."""

    node: NodeId
    entry: Entry
    task: TaskId | None = None
    name: str = ""
    container: str = ""
    """A container of the node's own, by name or id, whose process sends the packet."""


def question(state: ClusterState, own: NodeId, wanted: TraceWanted) -> Question:
    """`own`: the manager's node, which is meant where no node is named. Raises `InvalidArgument`,
    `NotFound` or `FailedPrecondition`."""
    if wanted.protocol not in PROTOCOLS:
        raise InvalidArgument(f"cannot trace: protocol {clip(wanted.protocol)!r} is not tcp or udp")
    if not 0 <= wanted.port <= 65535:
        raise InvalidArgument(f"cannot trace: port {wanted.port} is not a port")
    if wanted.outside is not None:
        if wanted.source:
            raise InvalidArgument("cannot trace: name a source or an address outside, not both")
        node, address, port = _at_node(state, own, wanted)
        packet = Packet(wanted.protocol, wanted.outside, SOURCE_PORT, address, port)
        return Question(node, FromWire(Datagram(packet=packet)))
    if "/" in wanted.source:
        return _from_container(state, own, wanted)
    source = _found(state, wanted.source, "source")
    if isinstance(source, Node):
        _, address, port = _at_node(state, source.id, wanted)
        return Question(source.id, _sends(wanted, address, port))
    task = _running(state, source)
    assert task.node is not None
    if task.spec.host_network:
        _, address, port = _at_node(state, task.node, wanted)
        return Question(task.node, _sends(wanted, address, port))
    return _from_task(state, task, task.node, wanted)


def _from_container(state: ClusterState, own: NodeId, wanted: TraceWanted) -> Question:
    """Of `node/container` and `/container`: a container that is no task's."""
    where, _, container = wanted.source.partition("/")
    node = _node(state, where).id if where else own
    if not container:
        raise InvalidArgument(f"cannot trace: source {clip(wanted.source)!r} names no container")
    _, address, port = _at_node(state, node, wanted)
    return Question(node, _sends(wanted, address, port), container=container)


def _sends(wanted: TraceWanted, address: IPv4Address, port: int) -> FromProcess:
    packet = Packet(wanted.protocol, ANY, SOURCE_PORT, address, port)
    return FromProcess(HOST_NAMESPACE, packet)


def _from_task(state: ClusterState, task: Task, node: NodeId, wanted: TraceWanted) -> Question:
    address = _address(wanted.target)
    if address is not None or _PORT.fullmatch(wanted.target):
        _, there, port = _at_node(state, node, wanted)
        return Question(node, _sends(wanted, there, port), task.id)
    try:
        target: Thing | None = _found(state, wanted.target, "target")
    except NotFound:
        target = None
    if isinstance(target, Node):
        there = _address_of(target)
        return Question(node, _sends(wanted, there, _port(wanted, ())), task.id)
    name = wanted.target if target is None else _name_of(state, target)
    ports = () if target is None else _targets(state, target, wanted.protocol)
    return Question(node, _sends(wanted, ANY, _port(wanted, ports)), task.id, name)


def _name_of(state: ClusterState, target: Task | Service) -> str:
    """As resolvers know it."""
    return _running(state, target).name if isinstance(target, Task) else target.name


def _targets(state: ClusterState, thing: Task | Service, protocol: str) -> tuple[int, ...]:
    """The ports on which its containers listen, as far as they are published."""
    service = state.services.get(thing.service) if isinstance(thing, Task) else thing
    ports = service.endpoint.ports if service is not None else ()
    return tuple(port.target for port in ports if port.protocol == protocol)


def _port(wanted: TraceWanted, known: Iterable[int]) -> int:
    port = wanted.port or next(iter(known), 0)
    if not port:
        raise InvalidArgument(
            f"cannot trace to {clip(wanted.target)}: no {wanted.protocol} port is known for it:"
            " name one with --port"
        )
    return port


# --- a port of a host


def _at_node(
    state: ClusterState, node: NodeId, wanted: TraceWanted
) -> tuple[NodeId, IPv4Address, int]:
    """The node, the address and the port where somebody who has no network of the swarm finds the
    target. `node`: which is meant if the target names none."""
    address = _address(wanted.target)
    if address is not None:
        there = (n.id for n in state.nodes.values() if n.data_path_address == address)
        return next(there, node), address, _port(wanted, ())
    match = _PORT.fullmatch(wanted.target)
    if match is not None:
        named = _node(state, match["node"]) if match["node"] else state.nodes[node]
        port = int(match["port"])
        if not 0 < port <= 65535:
            raise InvalidArgument(f"cannot trace to {wanted.target}: {port} is not a port")
        return named.id, _address_of(named), port
    target = _found(state, wanted.target, "target")
    if isinstance(target, Node):
        return target.id, _address_of(target), _port(wanted, ())
    service = state.services.get(target.service) if isinstance(target, Task) else target
    ports = service.endpoint.ports if service is not None else ()
    published = [p.published for p in ports if p.protocol == wanted.protocol]
    if not published:
        raise FailedPrecondition(
            f"cannot trace to {target.name}: it publishes no {wanted.protocol} port, and the source"
            " is on no network of the swarm"
        )
    port = wanted.port if wanted.port in published else published[0]
    return node, _address_of(state.nodes[node]), port


def _address_of(node: Node) -> IPv4Address:
    if node.data_path_address is None:
        raise FailedPrecondition(
            f"cannot trace to node {node.hostname}: its address is not known yet"
        )
    return node.data_path_address


def _node(state: ClusterState, reference: str) -> Node:
    address = _address(reference)
    for node in state.nodes.values():
        if reference in (node.id, node.hostname) or node.data_path_address == (address or ""):
            return node
    raise NotFound(f"cannot trace: node {clip(reference)} not found")


# --- references


def _found(state: ClusterState, reference: str, what: str) -> Thing:
    """Raises `NotFound`, or `InvalidArgument` if several things are meant."""
    if not reference:
        raise InvalidArgument(f"cannot trace: no {what} is named")
    found = _named(state, reference)
    live = [thing for thing in found if not isinstance(thing, Task) or thing.is_live]
    found = live or found[:1]
    if not found:
        raise NotFound(
            f"cannot trace {clip(reference)} ({what}): no task, service, container or node has that"
            " name"
        )
    if len(found) > 1:
        names = ", ".join(sorted(_described(thing) for thing in found)[:5])
        raise InvalidArgument(f"cannot trace {clip(reference)} ({what}): it is ambiguous: {names}")
    return found[0]


def _named(state: ClusterState, reference: str) -> list[Thing]:
    """Things of all kinds; a thing that is named wholly is preferred to beginnings of ids."""
    address = _address(reference)
    ways: list[Found[Thing]] = [
        matches(reference, list[Thing](things), _ids, partial(_names, address))
        for things in (state.tasks.values(), state.services.values(), state.nodes.values())
    ]
    whole = [thing for found in ways if found.by != PREFIX for thing in found.objects]
    if whole or len(reference) < SHORTEST_PREFIX:
        return whole
    return [thing for found in ways for thing in found.objects]


def _ids(thing: Thing) -> tuple[str, ...]:
    """A task's is also its container's."""
    container = thing.status.container if isinstance(thing, Task) else None
    return (thing.id,) if container is None else (thing.id, container.id)


def _names(address: IPv4Address | None, thing: Thing) -> tuple[str, ...]:
    """`address`: what is asked for, if it is one; things are also known by their addresses."""
    own: list[IPv4Address | None] = []
    if isinstance(thing, Task):
        names, own = [thing.name, thing.place], [a.address.ip for a in thing.attachments]
    elif isinstance(thing, Node):
        names, own = [thing.hostname], [thing.data_path_address]
    else:
        names = [thing.name]
    return (*names, str(address)) if address is not None and address in own else tuple(names)


def _described(thing: Thing) -> str:
    name = thing.hostname if isinstance(thing, Node) else thing.name
    return f"{type(thing).__name__.lower()} {name}"


def _running(state: ClusterState, thing: Task | Service) -> Task:
    if isinstance(thing, Task):
        if thing.state is not TaskState.RUNNING or thing.node is None:
            raise FailedPrecondition(
                f"cannot trace: task {thing.name} is not running: it is {thing.state.name.lower()}"
            )
        return thing
    tasks = state.tasks_of(thing.id).values()
    running = [task for task in tasks if task.state is TaskState.RUNNING and task.node is not None]
    if not running:
        raise FailedPrecondition(f"cannot trace: service {thing.name} has no running task")
    return min(running, key=lambda task: (task.slot, task.id))


def _address(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except AddressValueError:
        return None
