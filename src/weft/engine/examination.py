"""What is wrong with the network of this node, by the kernel's own word: what should be there and
is not, what was mended a moment ago, what cannot be done.

While the network changes, the kernel is behind what is desired, for some milliseconds. So what
differs is looked at twice, and only what differed both times counts."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address

from weft.engine.engine import Engine
from weft.engine.network import NetworkLoop
from weft.engine.networking import Networking
from weft.engine.peers import Question, Way, judged, ways
from weft.errors import WeftError
from weft.model.finding import Finding
from weft.network.differences import How, difference
from weft.network.operations import Operation
from weft.network.ownership import balancer_namespace, overlay_namespace

AGAIN = 0.3
"""Seconds until the second look: a round of the network loop and what it waits for take a third of
that."""
PROBE = 0.6
"""Seconds for packets to other hosts and back."""
DOUBT = (0.5, 2.0)
"""Seconds until ways that do not work are probed again: a host that has just joined a network is not
up on both sides yet, and keys take the longest."""
RECENT = 300.0
"""Seconds for which something that was mended is told."""
REPAIR = "weft doctor --repair"
FIND = "find out which program changes what Weft has made"
WAS: Mapping[How, str] = {
    "missing": "it was missing",
    "foreign": "it should not have been there",
    "wrong": "it was not as it should be",
}
MOST_ALIKE = 8
"""Findings of one kind; the others are counted."""


async def examine_network(engine: Engine, networking: Networking | None) -> list[Finding]:
    """`networking`: the swarm's part, if there is one."""
    names = _names(networking) if networking is not None else {}
    found = list(_failures(engine.network))
    differing = asyncio.create_task(_differences(engine.network, names))
    contested = asyncio.create_task(_rivals(engine, networking)) if networking else None
    try:
        if networking is not None:
            found += _encryption(networking)
            found += await _peers(engine, networking)
        if contested is not None:
            found += await contested
        found += await differing
        return [*found, *_mended(engine.network, names)]
    finally:
        differing.cancel()
        if contested is not None:
            contested.cancel()


async def mend(engine: Engine, networking: Networking | None) -> tuple[str, ...]:
    """Compares all of the network with what is desired, mends it, and tells what was mended. Raises
    `OperationFailed`."""
    names = _names(networking) if networking is not None else {}
    return tuple(
        f"{found.what}: {WAS[found.how]}"
        for found in (difference(each, names) for each in await engine.network.repair())
    )


def _names(networking: Networking) -> dict[str, str]:
    """Of networks, by their namespaces."""
    return {
        space(id): view.definition.name
        for id, view in networking.overlays.networks.items()
        for space in (overlay_namespace, balancer_namespace)
    }


async def _differences(loop: NetworkLoop, names: Mapping[str, str]) -> list[Finding]:
    first = set(map(str, await loop.differences()))
    if not first:
        return []
    await asyncio.sleep(AGAIN)
    lasting = [each for each in await loop.differences() if str(each) in first]
    return list(_shortened(_difference(each, names) for each in lasting))


def _difference(operation: Operation, names: Mapping[str, str]) -> Finding:
    found = difference(operation, names)
    return Finding(severity="error", what=found.what, cause=found.cause, remedy=REPAIR)


def _failures(loop: NetworkLoop) -> Iterator[Finding]:
    for failure in loop.failures[:MOST_ALIKE]:
        about = difference(failure.operation, {}).what if failure.operation else "the network"
        yield Finding(
            severity="error",
            what=about,
            cause=failure.cause,
            remedy="it is tried again all the time",
        )


def _mended(loop: NetworkLoop, names: Mapping[str, str]) -> Iterator[Finding]:
    def one(operation: Operation, ago: float) -> Finding:
        found = difference(operation, names)
        cause = f"another program changed it, and it was mended {ago:.0f} s ago"
        return Finding(severity="warning", what=found.what, cause=cause, remedy=FIND)

    recent = {str(m.operation): m for m in loop.mended if m.ago <= RECENT}
    yield from _shortened(one(m.operation, m.ago) for m in recent.values())


def _shortened(findings: Iterable[Finding]) -> Iterator[Finding]:
    found = list(findings)
    yield from found[:MOST_ALIKE]
    if len(found) > MOST_ALIKE:
        last = found[MOST_ALIKE]
        yield Finding(
            severity=last.severity,
            what=f"{len(found) - MOST_ALIKE} more like these",
            cause=f"{last.what}: {last.cause}",
            remedy=last.remedy,
        )


def _encryption(networking: Networking) -> Iterator[Finding]:
    if cause := networking.encryption_failure:
        yield Finding(
            severity="error",
            what="encrypted networks",
            cause=cause,
            remedy="modprobe esp4 || modprobe tun",
        )


async def _rivals(engine: Engine, networking: Networking) -> list[Finding]:
    address = networking.facts.data_path_address
    try:
        macs = await engine.adapters.network.rivals(address, PROBE)
    except WeftError:
        return []  # The address is on no interface that has neighbours, or on none at all.
    return [
        Finding(
            severity="error",
            what=f"address {address}",
            cause=f"another host has it too: {mac} answers for it",
            remedy="take it away from one of them",
        )
        for mac in sorted(macs)
    ]


async def _peers(engine: Engine, networking: Networking) -> list[Finding]:
    found = await _judged(engine, networking, ways(networking.overlays, networking.facts))
    for pause in DOUBT:
        if not found:
            return []
        await asyncio.sleep(pause)
        doubted = {each.peer for each in found}
        still = ways(networking.overlays, networking.facts)
        found = await _judged(engine, networking, [w for w in still if str(w.host) in doubted])
    return list(_shortened(found))


async def _judged(engine: Engine, networking: Networking, asked: list[Way]) -> list[Finding]:
    spaces: dict[str, set[tuple[IPv4Address, int]]] = {}
    for question in {question for way in asked for question in way.questions}:
        spaces.setdefault(question.namespace, set()).add((question.address, question.size))
    probe = engine.adapters.network.probe
    answers = dict(
        zip(
            spaces,
            await asyncio.gather(*(probe(name, some, PROBE) for name, some in spaces.items())),
            strict=True,
        )
    )

    def is_answered(question: Question) -> bool:
        return (question.address, question.size) in answers[question.namespace]

    return list(judged(asked, is_answered, networking.overlays.data_path_port))
