"""What is sealed with which keys, and that nothing of an encrypted network can leave its host
otherwise."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Literal

import msgspec
import pytest

from weft.agent.workloads import residents
from weft.model.assignment import (
    Assignment,
    EndpointRecord,
    NetworkDefinition,
    NetworkView,
    TaskAssignment,
    load_balancer_id,
)
from weft.model.encryption import DataKey, IcvBits, Protection
from weft.model.ids import ContainerId, NetworkId, NodeId, ServiceId, TaskId, WorkloadId
from weft.model.network import Segment
from weft.model.sandbox import NodeFacts, Sandbox
from weft.model.service import ContainerSpec, TaskSpec
from weft.model.task import Attachment
from weft.network.desired import Desired, SwarmPart
from weft.network.encryption import End, association, protection
from weft.network.kernel_state import HOST, ForwardingEntry, KernelState, Tap, Vxlan
from weft.network.ownership import CLEAR_MARK, ESP_DEVICE, ESP_SANDBOX, GUARD_TABLE
from weft.network.plan import Planner, plan

NODES = {NodeId(name): IPv4Address(f"10.59.72.{11 + k}") for k, name in enumerate("abc")}
KEYS = tuple(DataKey(tag=tag, secret=bytes([tag]) * 16) for tag in (7, 8, 9))
TASK = TaskId("t")
Engine = Literal["kernel", "userspace"]


def view(number: int, encrypted: bool, icv: Literal[64, 128] = 64) -> NetworkView:
    id = NetworkId(f"{number:09}network")
    subnet = IPv4Network(f"10.0.{number}.0/24")
    segment = Segment(subnet, subnet[1], 4096 + number)
    endpoints = [
        EndpointRecord(
            id=load_balancer_id(node),
            network=id,
            node=node,
            vtep=vtep,
            address=IPv4Interface(f"{subnet[2 + k]}/24"),
        )
        for k, (node, vtep) in enumerate(NODES.items())
    ]
    definition = NetworkDefinition(
        id=id, name=f"net{number}", segments=(segment,), encrypted=encrypted, icv_bits=icv
    )
    return NetworkView(definition, {e.id: e for e in endpoints}, {})


def assigned(node: NodeId, *views: NetworkView, keys: tuple[DataKey, ...] = KEYS) -> Assignment:
    """With one task, which is on all the networks."""
    subnets = [v.definition.segments[0].subnet for v in views]
    attachments = tuple(
        Attachment(v.definition.id, IPv4Interface(f"{subnet[9]}/24"))
        for v, subnet in zip(views, subnets, strict=True)
    )
    task = TaskAssignment(
        id=TASK,
        service=ServiceId("s"),
        service_name="s",
        slot=1,
        node=node,
        attachments=attachments,
        spec=TaskSpec(container=ContainerSpec(image="i")),
    )
    return Assignment(
        node=node, networks={v.definition.id: v for v in views}, keys=keys, tasks={TASK: task}
    )


def planned(assignment: Assignment, facts: NodeFacts) -> KernelState:
    sandbox = Sandbox(
        id="f" * 64,
        workload=WorkloadId(TASK),
        container=ContainerId("c"),
        gateway=IPv4Interface("172.18.0.3/16"),
        ports=dict.fromkeys(assignment.networks, 1),
    )
    return plan(assignment, facts, residents(assignment.tasks, [sandbox]))


def facts(node: NodeId, engine: Engine | None = "userspace") -> NodeFacts:
    return NodeFacts(node=node, data_path_address=NODES[node], esp_engine=engine)


def external_etcd(state: KernelState) -> list[ForwardingEntry]:
    """What goes to other hosts."""
    return [
        entry
        for space in state.namespaces.values()
        for entry in space.forwarding
        if entry.vtep is not None
    ]


def vxlan_devices(state: KernelState) -> dict[int, Vxlan]:
    links = [link for namespace in state.namespaces.values() for link in namespace.links.values()]
    return {link.kind.vni: link.kind for link in links if isinstance(link.kind, Vxlan)}


def protections(*views: NetworkView) -> dict[NodeId, Protection]:
    found = {node: protection(assigned(node, *views), facts(node)) for node in NODES}
    assert all(found.values())
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("icv", "spi", "key"),
    [
        (64, 2686788332, "8a6a400a8c2b07f32c5dd916838198afc374bf85"),
        (128, 191470764, "7362f1f0ab1cabc7bbef7aad53ed1ff534bb5818"),
    ],
)
def test_keys_are_derived_as_ever(icv: IcvBits, spi: int, key: str) -> None:
    """Two versions of Weft on two hosts must understand each other."""
    ends = (
        End(IPv4Address("192.0.2.1"), NodeId("node-a")),
        End(IPv4Address("192.0.2.2"), NodeId("node-b")),
    )
    derived = association(DataKey(tag=7, secret=bytes(range(16))), *ends, icv)
    assert (derived.spi, derived.key.hex()) == (spi, key)


def test_both_ends_agree_on_every_association() -> None:
    by_node = protections(view(1, True), view(2, True, 128))
    for node, own in by_node.items():
        assert {a.tag for a in own.outbound} == {8}
        assert {a.tag for a in own.inbound} == {7, 8, 9}
        for outgoing in own.outbound:
            [far] = [n for n, address in NODES.items() if address == outgoing.destination]
            assert far != node
            assert outgoing in by_node[far].inbound


def test_no_two_senders_share_a_key_or_an_spi() -> None:
    every = [
        a for own in protections(view(1, True), view(2, True, 128)).values() for a in own.inbound
    ]
    assert len({a.key for a in every}) == len({a.spi for a in every}) == len(every) == 2 * 3 * 6


def test_a_longer_secret_makes_a_longer_key() -> None:
    a, b = (End(address, node) for node, address in list(NODES.items())[:2])
    key = association(DataKey(tag=1, secret=bytes(32)), a, b, 64).key
    assert len(key) == 32 + 4


def test_a_host_that_joined_again_has_other_keys() -> None:
    a, b = (End(address, node) for node, address in list(NODES.items())[:2])
    reborn = End(a.address, NodeId("z"))
    assert association(KEYS[0], a, b, 64).key != association(KEYS[0], reborn, b, 64).key


def test_keys_are_not_printed() -> None:
    own = protections(view(1, True))[NodeId("a")]
    assert not any(repr(a.key)[2:-1] in repr(own) for a in own.inbound)


def test_the_userspace_engine_is_alone_with_the_sockets() -> None:
    state = planned(assigned(NodeId("a"), view(1, False), view(2, True)), facts(NodeId("a")))
    devices = vxlan_devices(state)
    assert devices[4097].socket == HOST
    assert devices[4098].socket == ESP_SANDBOX
    sandbox = state[ESP_SANDBOX]
    assert [(link.name, link.kind) for link in sandbox.links.values()] == [(ESP_DEVICE, Tap())]
    assert {route.device for route in sandbox.routes} == {ESP_DEVICE}
    assert ESP_SANDBOX not in state[HOST].links


def test_the_kernel_engine_is_told_which_datagrams_may_be_clear() -> None:
    state = planned(
        assigned(NodeId("a"), view(1, False), view(2, True), view(3, True, 128)),
        facts(NodeId("a"), "kernel"),
    )
    body = state[HOST].tables["ip", GUARD_TABLE].body
    clear = [line for line in body.splitlines() if f"{CLEAR_MARK:#x}" in line]
    assert len(clear) == 2
    assert all("{ 4097 }" in line for line in clear)
    assert ESP_SANDBOX not in state.namespaces


def frame_marks(state: KernelState) -> dict[str, str]:
    """By network's namespace: the rule that marks what leaves the bridge for other hosts."""
    tables = {name: s.tables.get(("bridge", "weft")) for name, s in state.namespaces.items()}
    return {
        name: line.strip()
        for name, table in tables.items()
        for line in (table.body.splitlines() if table else ())
        if "meta mark set" in line
    }


def test_frames_are_marked_before_the_kernel_chooses_their_route_and_mtu() -> None:
    views = view(1, False), view(2, True), view(3, True, 128)
    state = planned(assigned(NodeId("a"), *views), facts(NodeId("a"), "kernel"))
    assert frame_marks(state) == {
        "1-000000001n": f'oifname {{ "vxlan0" }} meta mark set {CLEAR_MARK:#x}',
        "1-000000003n": f'oifname {{ "vxlan0" }} meta mark set {CLEAR_MARK - 1:#x}',
    }
    for engine in ("userspace", None):
        assert not frame_marks(planned(assigned(NodeId("a"), *views), facts(NodeId("a"), engine)))
    assert not frame_marks(planned(assigned(NodeId("a"), views[0]), facts(NodeId("a"), "kernel")))


@pytest.mark.parametrize("keys", [(), KEYS])
def test_plain_datagrams_are_marked_before_the_first_policies_and_until_the_last_are_gone(
    keys: tuple[DataKey, ...],
) -> None:
    own, plain, encrypted = facts(NodeId("a"), "kernel"), view(1, False), view(2, True)
    first = planned(assigned(NodeId("a"), plain, encrypted, keys=keys), own)
    assert ("ip", GUARD_TABLE) in first[HOST].tables
    assert "1-000000001n" in frame_marks(first)
    for in_force in (True, False):
        part = SwarmPart(assigned(NodeId("a"), plain, keys=()), own, [], in_force)
        last = Planner().plan(Desired(part))
        assert (("ip", GUARD_TABLE) in last[HOST].tables) is in_force


@pytest.mark.parametrize(("keys", "engine"), [((), "userspace"), ((), "kernel"), (KEYS, None)])
def test_without_keys_or_engine_nothing_leaves_the_host(
    keys: tuple[DataKey, ...], engine: Engine | None
) -> None:
    assignment = assigned(NodeId("a"), view(1, True), keys=keys)
    state = planned(assignment, facts(NodeId("a"), engine))
    assert vxlan_devices(state) == {}
    assert not external_etcd(state)


def test_a_data_path_port_of_ones_own_is_protected_as_well() -> None:
    assignment = msgspec.structs.replace(assigned(NodeId("a"), view(1, True)), data_path_port=7789)
    own = protection(assignment, facts(NodeId("a")))
    assert own is not None
    assert own.port == 7789
    device = vxlan_devices(planned(assignment, facts(NodeId("a"))))[4097]
    assert (device.port, device.socket) == (7789, ESP_SANDBOX)


def test_a_network_with_one_endpoint_has_no_socket_on_the_underlay() -> None:
    """A forged clear datagram finds nobody who listens for its VNI."""
    alone = view(1, True)
    own = {id: e for id, e in alone.endpoints.items() if e.node == "a"}
    state = planned(
        assigned(NodeId("a"), NetworkView(alone.definition, own, {})), facts(NodeId("a"))
    )
    assert vxlan_devices(state)[4097].socket == ESP_SANDBOX
    assert not external_etcd(state)


def test_nothing_to_protect() -> None:
    assert protection(assigned(NodeId("a"), view(1, False)), facts(NodeId("a"))) is None


@pytest.mark.parametrize(("icv", "mtu"), [(64, 1424), (128, 1416)])
def test_mtu_leaves_room_for_what_sealing_adds(icv: Literal[64, 128], mtu: int) -> None:
    state = planned(assigned(NodeId("a"), view(1, True, icv)), facts(NodeId("a")))
    network = state["1-000000001n"]
    assert {link.mtu for link in network.links.values()} == {mtu}
    sealed = mtu + 14 + 8 + 8
    padded = sealed + -(sealed + 2) % 4 + 2
    assert 20 + 8 + 8 + padded + icv // 8 <= 1500
