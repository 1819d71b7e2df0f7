"""Swarms drawn at random, as one node is told of them, and kernels that are brought to what the
plan makes of that."""

import asyncio
import itertools
from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Literal

import msgspec
from hypothesis import strategies as st

from tests.support.swarms import Swarm
from weft.linux.fake import FakeKernel
from weft.model.addresses import Protocol
from weft.model.assignment import Assignment
from weft.model.encryption import DataKey
from weft.model.sandbox import NodeFacts
from weft.model.service import PublishedPort
from weft.model.task import TaskState
from weft.model.workload import Resident
from weft.network.diff import diff
from weft.network.kernel_state import HOST, KernelState, Link, Namespace, Vxlan
from weft.network.operations import Operation
from weft.network.plan import plan
from weft.network.render.table import text
from weft.network.trace.nft import parse

NODES = 3
SUBNETS = [
    "10.10.0.0/24",
    "10.11.0.0/24",
    "10.12.0.0/24",
    "10.13.0.0/24",
    "10.14.0.0/24",
    "10.15.0.0/24",
]
KEYS = (DataKey(tag=1, secret=b"k" * 16),)
Engine = Literal["kernel", "userspace"] | None
ENGINES: tuple[Engine, ...] = (None, "kernel", "userspace")
Told = tuple[Assignment, NodeFacts, list[Resident]]
"""What `plan` takes."""
Number = tuple[int, IPv4Address | None]
"""A published port's number, and the only address of the hosts that has it."""
PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp")
MODES: tuple[Literal["ingress", "host"], ...] = ("ingress", "host")


@st.composite
def swarms(draw: st.DrawFn) -> Swarm:
    """Up to three networks of one or two segments, up to four services with tasks anywhere, of
    which some do not serve. Services may share a port, each at an address of its own."""
    swarm = Swarm(NODES)
    pools = draw(st.permutations(SUBNETS))
    networks = []
    for i in range(draw(st.integers(0, 3))):
        subnets = pools[2 * i : 2 * i + draw(st.integers(1, 2))]
        internal, encrypted = draw(st.booleans()), draw(st.booleans())
        mtu = draw(st.sampled_from([None, 1400]))
        networks.append(
            swarm.network(f"net{i}", *subnets, internal=internal, encrypted=encrypted, mtu=mtu)
        )
    published = itertools.count(8000)
    shared: list[Number] = [(9000, swarm.vtep(node)) for node in swarm.nodes]
    for i in range(draw(st.integers(0, 4))):
        attached = draw(st.lists(st.sampled_from(networks), unique=True)) if networks else []
        numbers: list[Number] = []
        for is_shared in draw(st.lists(st.booleans(), max_size=2)):
            numbers.append(shared.pop() if shared and is_shared else (next(published), None))
        ports = [
            PublishedPort(
                target=draw(st.sampled_from([53, 80])), published=number, host_address=address,
                protocol=draw(st.sampled_from(PROTOCOLS)), mode=draw(st.sampled_from(MODES)),
            )
            for number, address in numbers
        ]  # fmt: skip
        on = draw(st.lists(st.integers(1, NODES), max_size=4))
        for task in swarm.service(
            f"web{i}", *attached, ports=ports, on=on, virtual=draw(st.booleans())
        ):
            swarm.set_serving(task, draw(st.booleans()))
            desired = draw(
                st.sampled_from([TaskState.READY, TaskState.RUNNING, TaskState.SHUTDOWN])
            )
            swarm.tasks[task] = msgspec.structs.replace(swarm.tasks[task], desired=desired)
    return swarm


@st.composite
def inputs(draw: st.DrawFn, node: int | None = None) -> Told:
    """What `plan` takes: overlays, facts, residents."""
    swarm, node = draw(swarms()), node or draw(st.integers(1, NODES))
    return told(
        swarm,
        node,
        draw(st.sampled_from(ENGINES)),
        draw(st.sampled_from([(), KEYS])),
    )


def told(swarm: Swarm, node: int, engine: Engine = None, keys: tuple[DataKey, ...] = ()) -> Told:
    assignment = msgspec.structs.replace(swarm.assignment(node), keys=keys)
    return (
        assignment,
        msgspec.structs.replace(swarm.facts(node), esp_engine=engine),
        swarm.residents(node),
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[Told, Told]:
    """One node at two moments of one swarm: tasks went, stopped serving, and came, and services
    published something else."""
    swarm, node = draw(swarms()), draw(st.integers(1, NODES))
    before = told(swarm, node)
    for task in (
        draw(st.lists(st.sampled_from(sorted(swarm.tasks)), unique=True)) if swarm.tasks else ()
    ):
        if draw(st.booleans()):
            swarm.remove(task)
        else:
            swarm.set_serving(task, draw(st.booleans()))
    published = sorted(swarm.services[swarm.ingress])
    for service in draw(st.lists(st.sampled_from(published), unique=True)) if published else ():
        name, ports = (
            swarm.services[swarm.ingress][service].name,
            [PublishedPort(target=80, published=7000)],
        )
        swarm.publish_anew(
            name,
            draw(st.sampled_from([ports, []])),
            on=draw(st.lists(st.integers(1, NODES), max_size=2)),
        )
    extra = draw(st.lists(st.sampled_from(sorted(swarm.definitions)), unique=True, max_size=2))
    swarm.service(
        "late",
        *(n for n in extra if n != swarm.ingress),
        on=draw(st.lists(st.integers(1, NODES), max_size=2)),
    )
    return before, told(swarm, node)


def bring(
    kernel: FakeKernel, desired: KernelState, actual: KernelState | None = None
) -> list[Operation]:
    """Apply the difference; gives the operations. `actual`: what is taken for the kernel's state;
    None: what it is."""

    async def run() -> list[Operation]:
        operations = diff(actual or await kernel.read(desired), desired)
        await kernel.apply(operations)
        return operations

    return asyncio.run(run())


def read(kernel: FakeKernel, desired: KernelState) -> KernelState:
    return asyncio.run(kernel.read(desired))


def kernel_in(desired: KernelState) -> FakeKernel:
    kernel = FakeKernel()
    bring(kernel, desired)
    return kernel


def planned(input: Told) -> KernelState:
    return plan(*input)


def differences(kernel: FakeKernel, desired: KernelState) -> list[str]:
    """Where the kernel is not exactly what was desired, found without `diff`: by comparing the
    values field by field."""
    state = kernel.state()
    found = []
    if state.namespaces.keys() != desired.namespaces.keys():
        found.append(
            f"namespaces {sorted(state.namespaces)} instead of {sorted(desired.namespaces)}"
        )
    for name in state.namespaces.keys() & desired.namespaces.keys():
        have, want = state[name], desired[name]
        for field in ("neighbours", "forwarding", "routes", "rules"):
            if getattr(have, field) != getattr(want, field):
                found.append(
                    f"{name} {field}: {getattr(have, field)} instead of {getattr(want, field)}"
                )
        if kernel.spaces[name].damaged:
            found.append(f"{name} tables {kernel.spaces[name].damaged} are not what they were")
        rulesets = {key: kernel.spaces[name].ruleset(key) for key in have.tables}
        if rulesets != {key: parse(text(table)) for key, table in want.tables.items()}:
            found.append(f"{name} tables: {rulesets} instead of {want.tables}")
        links = {
            n: link if link.mac else msgspec.structs.replace(link, mac=_mac(have, n))
            for n, link in want.links.items()
        }
        if _without_sockets(have.links) != _without_sockets(links):
            found.append(f"{name} links: {have.links} instead of {links}")
        wrong = {
            key: value for key, value in want.sysctls.items() if have.sysctls.get(key, "0") != value
        }
        if wrong:
            found.append(f"{name} sysctls: {wrong}")
    return found


def _without_sockets(links: Mapping[str, Link]) -> dict[str, Link]:
    """Where a tunnel's socket is does not count: the kernel does not tell it."""
    return {
        name: (
            msgspec.structs.replace(link, kind=msgspec.structs.replace(link.kind, socket=HOST))
            if isinstance(link.kind, Vxlan)
            else link
        )
        for name, link in links.items()
    }


def _mac(namespace: Namespace, name: str) -> str | None:
    return namespace.links[name].mac if name in namespace.links else None
