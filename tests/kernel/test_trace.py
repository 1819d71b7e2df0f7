"""A packet's way over the state of real kernels, healthy and with one fault each: the trace names
the hop and the cause.

The hosts are those of `datapath_bed.py`. No daemon runs there, so nothing is repaired while we
look; after each fault the plan is applied again, as the daemon would.
"""

import base64
import contextlib
import functools
import os
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from tests.kernel.datapath_bed import CLIENT, HOSTS, TIMEOUT, Bed, bound, own_address
from tests.support.swarms import Swarm
from tests.walk.conftest import Cluster
from weft.lab.breaks import MENDED, Fault, filled
from weft.linux import netns
from weft.linux.fake_underlay import OUTSIDE, Step
from weft.model.addresses import mac_for
from weft.model.codec import decode, encode
from weft.model.ids import TaskId
from weft.model.service import PublishedPort
from weft.model.trace import (
    ANY,
    Cause,
    CauseKind,
    Datagram,
    Delivered,
    Entry,
    Flow,
    FromProcess,
    FromWire,
    Packet,
    Passage,
    Sent,
    Stopped,
)
from weft.network.ownership import overlay_namespace

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
WEB = 8080


class Way(NamedTuple):
    """A packet's way through several hosts."""

    legs: list[tuple[int, Passage]]

    @property
    def exit(self) -> Delivered | Sent | Stopped:
        return self.legs[-1][1].exit

    @property
    def told(self) -> list[str]:
        return [
            f"node{host} {step.namespace}: {step.words}: {step.packet}"
            for host, passage in self.legs
            for step in passage.steps
        ]

    @property
    def causes(self) -> list[Cause]:
        """Why it ended, and what would end others."""
        stopped = [self.exit.cause] if isinstance(self.exit, Stopped) else []
        return stopped + [cause for _, passage in self.legs for cause in passage.remarks]


class TraceBed(Bed):
    def follow(self, host: int, entry: Entry, before: Way | None = None) -> Way:
        """`before`: the way of the packet that this one answers."""
        legs: list[tuple[int, Passage]] = []
        flows = {number: passage.flows for number, passage in (before.legs if before else [])}
        while True:
            passage = self.walk(host, entry, flows.get(host, ()))
            legs.append((host, passage))
            if not isinstance(passage.exit, Sent):
                return Way(legs)
            neighbour = str(passage.exit.neighbour)
            if neighbour not in HOSTS:
                return Way(legs)
            host, entry = HOSTS.index(neighbour) + 1, FromWire(passage.exit.datagram)

    def walk(self, host: int, entry: Entry, flows: tuple[Flow, ...]) -> Passage:
        process = self.processes[host - 1]
        assert process.stdin is not None
        assert process.stdout is not None
        line = base64.b64encode(encode((entry, flows))).decode()
        process.stdin.write(f"walk {line}\n")
        process.stdin.flush()
        passage: Passage = decode(base64.b64decode(process.stdout.readline()), Passage)
        return passage

    def from_task(self, task: TaskId, address: str, port: int, protocol: str = "tcp") -> Way:
        host = self.swarm.nodes.index(self.swarm.tasks[task].node) + 1
        packet = Packet(protocol, ANY, 40000, IPv4Address(address), port)
        return self.follow(host, FromProcess(self.swarm.sandbox(task).key, packet))

    def from_outside(self, host: int, port: int) -> Way:
        packet = Packet("tcp", IPv4Address(CLIENT), 40000, IPv4Address(HOSTS[host - 1]), port)
        return self.follow(host, FromWire(Datagram(packet=packet)))

    def answer(self, way: Way) -> Way:
        assert not isinstance(way.exit, Stopped), way.exit
        return self.follow(way.legs[-1][0], way.exit.answer, way)


class Scene(NamedTuple):
    bed: TraceBed
    web: TaskId
    app: TaskId
    virtual: str


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """`web` on the second host publishes 8080; `app` is on the first one."""
    swarm = Swarm()
    with contextlib.ExitStack() as stack:
        net = swarm.network("mynet", "10.10.10.0/24")
        [web] = swarm.service("web", net, ports=[PublishedPort(target=80, published=WEB)], on=[2])
        [app] = swarm.service("app", net, on=[1])
        bed = TraceBed(swarm, stack)
        bed.apply()
        bed.servers.add(bed.sandbox(web), web, tcp=[80], udp=[53])
        virtual = swarm.services[net][swarm.tasks[web].service].virtual_address
        yield Scene(bed, web, app, str(virtual))


# --- healthy


def test_from_a_task_to_a_virtual_address_and_back(scene: Scene) -> None:
    """The same as over the plan, step by step."""
    way = scene.bed.from_task(scene.app, scene.virtual, 80)
    assert isinstance(way.exit, Delivered)
    assert way.exit.namespace == scene.bed.swarm.sandbox(scene.web).key
    assert not way.causes
    cluster = Cluster(scene.bed.swarm)
    planned = cluster.from_task(scene.app, scene.virtual, 80)
    assert way.told == told(planned.steps)
    back = scene.bed.answer(way)
    assert isinstance(back.exit, Delivered)
    assert back.told == told(cluster.underlay.answer(planned).steps)


@pytest.mark.parametrize("host", [1, 2])
def test_from_outside_to_a_published_port_and_back(scene: Scene, host: int) -> None:
    way = scene.bed.from_outside(host, WEB)
    assert isinstance(way.exit, Delivered)
    assert not way.causes
    planned = Cluster(scene.bed.swarm).from_outside(
        f"node{host}", WEB, source=(IPv4Address(CLIENT), 40000)
    )
    assert way.told == told(planned.steps)
    back = scene.bed.answer(way)
    assert isinstance(back.exit, Sent)
    assert str(back.exit.datagram.packet) == f"tcp {HOSTS[host - 1]}:{WEB} > {CLIENT}:40000"


def told(steps: list[Step]) -> list[str]:
    return [
        f"{step.place.host} {step.place.namespace}: {step.what}: {step.packet}"
        for step in steps
        if step.place.host != OUTSIDE
    ]


# --- with a fault


NET = "mynet"
ROLES = {"app": 1, "web": 2}


@pytest.mark.parametrize("fault", MENDED, ids=lambda fault: fault.name)
def test_a_fault_is_named_with_its_place(scene: Scene, fault: Fault) -> None:
    bed, named = scene.bed, fault.trace
    assert named is not None
    words = {
        "address": own_address(bed, scene.web, NET),
        "mac": mac_for(IPv4Address(own_address(bed, scene.web, NET))),
        "sender": mac_for(IPv4Address(own_address(bed, scene.app, NET))),
    }
    for command in fault.commands:
        place = path_of(scene, ROLES[fault.host], fault.space)
        bed.inside(place, *filled(command, words).split())
    try:
        way = scene.bed.from_task(scene.app, scene.virtual, 80)
    finally:
        bed.apply()
    host = ROLES[named.host]
    assert [way.legs[-1][0] if isinstance(way.exit, Stopped) else host] == [host]
    [cause] = way.causes
    assert (cause.kind, cause.namespace) == (named.kind, namespace_of(scene, named.space))
    assert not named.device or cause.device == named.device
    assert filled(named.words, words) in str(cause)
    assert cause.repair


MOST_TOGETHER, ROUNDS = 3, 8
SHORT = 0.3
"""Seconds in which no answer may come where the walk has an end."""


def test_a_real_connection_agrees_with_the_walk(scene: Scene) -> None:
    """Of healthy kernels and of some with several faults at once. Where rules were changed, the
    walk does not say what becomes of a packet."""
    bed, random = scene.bed, Random(1)
    address = own_address(bed, scene.web, NET)
    words = {
        "address": address,
        "mac": mac_for(IPv4Address(address)),
        "sender": mac_for(IPv4Address(own_address(bed, scene.app, NET))),
    }
    known = [f for f in MENDED if f.trace and f.trace.kind is not CauseKind.RULES_CHANGED]
    for count in range(ROUNDS):
        faults = random.sample(known, count % (MOST_TOGETHER + 1))
        for fault, command in [(each, line) for each in faults for line in each.commands]:
            place = path_of(scene, ROLES[fault.host], fault.space)
            # What one fault has taken away the next one does not find.
            bed.inside(place, *filled(command, words).split(), check=False)
        try:
            way = bed.from_task(scene.app, scene.virtual, 80)
            arrives = not isinstance(way.exit, Stopped)
            arrives = arrives and isinstance(bed.answer(way).exit, Delivered)
            patience = TIMEOUT if arrives else SHORT
            told = [fault.name for fault in faults]
            assert answers(bed.sandbox(scene.app), scene.virtual, patience) is arrives, told
        finally:
            bed.apply()


def answers(path: Path, address: str, seconds: float) -> bool:
    def opened() -> bool:
        try:
            socket.create_connection((address, 80), seconds).close()
        except OSError:
            return False
        return True

    return netns.run_in(path, opened)


def namespace_of(scene: Scene, space: str) -> str:
    bed = scene.bed
    if space == "network":
        [network] = [d.id for d in bed.swarm.definitions.values() if d.name == NET]
        return overlay_namespace(network)
    sandboxes = {"web": scene.web, "app": scene.app}
    return bed.swarm.sandbox(sandboxes[space]).key if space in sandboxes else space


def path_of(scene: Scene, host: int, space: str) -> Path:
    if space == "host":
        return scene.bed.path(f"node{host}")
    return scene.bed.directory(host) / namespace_of(scene, space)


def test_a_host_without_a_route(scene: Scene) -> None:
    scene.bed.inside("node1", "ip", "link", "set", "ens160", "down")
    try:
        way = scene.bed.from_task(scene.app, scene.virtual, 80)
    finally:
        scene.bed.inside("node1", "ip", "link", "set", "ens160", "up")
        scene.bed.inside("node1", "ip", "route", "add", "default", "via", "10.59.72.254")
    assert isinstance(way.exit, Stopped)
    cause = way.exit.cause
    assert (cause.kind, cause.namespace) == (CauseKind.NO_ROUTE, "host")
    assert "no route to 10.59.72.12: ens160 is down" in str(cause)


def test_a_host_that_does_not_forward(scene: Scene) -> None:
    scene.bed.inside("node1", "sysctl", "-qw", "net.ipv4.ip_forward=0")
    way = scene.bed.from_outside(1, WEB)
    scene.bed.apply()
    assert isinstance(way.exit, Stopped)
    assert way.exit.cause.kind is CauseKind.NOT_A_ROUTER
    assert "net.ipv4.ip_forward is 0" in str(way.exit.cause)


def test_a_port_on_which_nobody_listens(scene: Scene) -> None:
    way = scene.bed.from_task(scene.app, scene.virtual, 81)
    assert isinstance(way.exit, Stopped)
    assert way.exit.cause.kind is CauseKind.NO_LISTENER
    assert "no socket listens on tcp port 81" in str(way.exit.cause)


def test_a_server_that_listens_on_the_loopback_only(scene: Scene) -> None:
    opened = functools.partial(bound, socket.SOCK_STREAM, "127.0.0.1", 82)
    with netns.run_in(scene.bed.sandbox(scene.web), opened):
        way = scene.bed.from_task(scene.app, scene.virtual, 82)
    assert isinstance(way.exit, Stopped)
    assert way.exit.cause.kind is CauseKind.NO_LISTENER
    assert "the server listens on 127.0.0.1 only" in str(way.exit.cause)


def test_nothing_is_found_when_all_is_repaired(scene: Scene) -> None:
    assert not scene.bed.from_task(scene.app, scene.virtual, 80).causes
    assert not scene.bed.from_outside(1, WEB).causes
