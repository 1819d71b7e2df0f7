"""What is wrong with the swarm and with each of its nodes, as they tell when asked.

Each node says at once that it is there, with its clock, and what it has found some moments later
(`session.messages.ExaminationFrame`). A node that says nothing within `GREETING` is shown as such,
and the others' findings are shown nevertheless."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from typing import NamedTuple

from weft.control.examination import name_of
from weft.errors import WeftError
from weft.manager.broker import StreamBroker
from weft.manager.streams import Accepted, End, How, TheseNodes
from weft.model.finding import Examination, Finding, clock_difference
from weft.model.ids import NodeId
from weft.model.meta import SECOND, Nanoseconds
from weft.model.node import NodeState
from weft.model.state import ClusterState
from weft.session.messages import ExaminationFrame, ExaminationRequest
from weft.store.base import Store
from weft.store.etcd.base import Kv
from weft.store.etcd.process import QUOTA

GREETING = 2.0
"""Seconds for a node to say that it is there."""
LONGEST = 25.0
"""Seconds for its findings."""
ETCD_PATIENCE = 2.0
SIZE = 256 << 10
"""Bytes that an examination takes in memory at most: `incoming.py` limits number and length of
findings."""
SKEW = SECOND
"""Clocks may differ by this: certificates, restarts and history allow for more."""
NEARLY_FULL = 0.8

Clock = Callable[[], Nanoseconds]


class Said(NamedTuple):
    node: NodeId
    frame: ExaminationFrame
    heard: Nanoseconds
    """When it was received."""


class Examinations:
    """`streams.Stream`. Its items are `Said`."""

    frame = ExaminationFrame
    follow, until = False, 0

    def __init__(self, clock: Clock, repair: bool) -> None:
        self._clock = clock
        self._repair = repair
        self.asked: dict[NodeId, Nanoseconds] = {}

    def __str__(self) -> str:
        return "examinations"

    def request(self, node: NodeId) -> ExaminationRequest:
        self.asked[node] = self._clock()
        return ExaminationRequest(self._repair)

    async def accept(self, node: NodeId, frame: ExaminationFrame) -> Accepted:
        return Accepted([Said(node, frame, self._clock())], SIZE, cost=1)


class Asked:
    """What the nodes have said so far."""

    def __init__(self, nodes: Iterable[NodeId]) -> None:
        self.silent = set(nodes)
        self.examining: set[NodeId] = set()
        """Have said that they are there."""
        self.told: dict[NodeId, Examination] = {}
        self.ends: dict[NodeId, End] = {}
        self.skews: dict[NodeId, Nanoseconds] = {}

    @property
    def patience(self) -> float:
        """Seconds from the question for which there is something to wait for."""
        return LONGEST if self.examining else GREETING if self.silent else 0.0

    def take(self, item: End | Said, asked: dict[NodeId, Nanoseconds]) -> None:
        self.silent.discard(item.node)
        self.examining.discard(item.node)
        if isinstance(item, End):
            if item.node not in self.told:
                self.ends[item.node] = item
        elif item.frame.examination is not None:
            self.told[item.node] = item.frame.examination
        else:
            self.examining.add(item.node)
            said = item.frame.time
            self.skews[item.node] = clock_difference(said, asked[item.node], item.heard)


async def ask(broker: StreamBroker, nodes: Iterable[NodeId], clock: Clock, repair: bool) -> Asked:
    """Raises `Unavailable` if this manager stops."""
    stream, targets = Examinations(clock, repair), tuple(nodes)
    asked = Asked(targets)
    now = asyncio.get_running_loop().time
    begun = now()
    async with aclosing(broker.read(stream, TheseNodes(targets))) as batches:
        while (left := begun + asked.patience - now()) > 0:
            try:
                async with asyncio.timeout(left):
                    batch = await anext(batches)
            except (TimeoutError, StopAsyncIteration):
                break
            for item in batch:
                asked.take(item, stream.asked)
    return asked


def findings(state: ClusterState, asked: Asked) -> Iterator[Finding]:
    """Those of all nodes, with the nodes' names. A node that is down has been told of already: what
    others say of the way there adds nothing."""
    for id, examination in asked.told.items():
        for finding in examination.findings:
            if not finding.peer or _is_ready(state, finding.peer):
                yield _of(state, id, finding)
    for id in (*asked.silent, *asked.examining):
        if not _is_still_ready(state, id):
            continue
        yield Finding(
            severity="error",
            node=_name(state, id),
            what="daemon",
            cause=f"it did not answer within {LONGEST if id in asked.examining else GREETING:g} s",
            remedy="look at its load and its log: journalctl -u weft",
        )
    for id, end in asked.ends.items():
        if end.how is not How.UNKNOWN and _is_still_ready(state, id):
            cause = end.cause or "it has told nothing"
            yield Finding(severity="error", node=_name(state, id), what="daemon", cause=cause)
    for id, skew in asked.skews.items():
        if abs(skew) > SKEW:
            word = "ahead of" if skew > 0 else "behind"
            yield Finding(
                severity="error",
                node=_name(state, id),
                what="clock",
                cause=f"it is at least {abs(skew) / SECOND:.1f} s {word} this manager's",
                remedy="timedatectl set-ntp true, on both",
            )


def _of(state: ClusterState, id: NodeId, finding: Finding) -> Finding:
    return Finding(
        severity=finding.severity,
        what=finding.what,
        cause=finding.cause,
        remedy=finding.remedy,
        peer=finding.peer,
        node=_name(state, id),
    )


def _name(state: ClusterState, id: NodeId) -> str:
    node = state.nodes.get(id)
    return name_of(node) if node is not None else id


def _is_still_ready(state: ClusterState, id: NodeId) -> bool:
    """Otherwise its state says why it does not answer."""
    node = state.nodes.get(id)
    return node is not None and node.status.state is NodeState.READY


def _is_ready(state: ClusterState, address: str) -> bool:
    return any(
        str(node.data_path_address) == address and node.status.state is NodeState.READY
        for node in state.nodes.values()
    )


async def examine_store(store: Store, kv: Kv | None) -> list[Finding]:
    if not store.is_healthy:
        return [
            Finding(
                severity="critical",
                what="store",
                cause="there is no majority of the managers: the swarm cannot be changed",
                remedy="bring managers back, or docker swarm init --force-new-cluster on one",
            )
        ]
    if kv is None:
        return []
    try:
        async with asyncio.timeout(ETCD_PATIENCE):
            status = await kv.status()
    except (WeftError, TimeoutError) as error:
        return [
            Finding(
                severity="error",
                what="etcd",
                cause=f"this manager's etcd member does not tell its state: {error or 'no answer'}",
                remedy="look at its disk and its log: journalctl -u weft",
            )
        ]
    if status.is_full:
        return [
            Finding(
                severity="critical",
                what="etcd",
                cause="its database has reached its quota, and refuses changes",
                remedy="managers make room by themselves; look for etcd in journalctl -u weft",
            )
        ]
    if status.in_use > NEARLY_FULL * QUOTA:
        cause = f"{status.in_use >> 20} of {QUOTA >> 20} MiB are in use"
        remedy = "remove services, secrets and configs that nobody needs"
        return [Finding(severity="warning", what="etcd", cause=cause, remedy=remedy)]
    return []
