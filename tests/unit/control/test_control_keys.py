"""Keys of encrypted networks: when they are made, renewed and thrown away, and who is given
them."""

import itertools
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import msgspec
import pytest

from weft.control import keys
from weft.control.assignments.assignment import assignment_for
from weft.control.assignments.differences import difference
from weft.control.assignments.views import network_views
from weft.errors import FailedPrecondition
from weft.model.cluster import Cluster, JoinTokens, RootCa
from weft.model.encryption import sending_key
from weft.model.ids import ClusterId, NetworkId, NodeId, ServiceId, TaskId
from weft.model.meta import SECOND
from weft.model.network import Network, NetworkSpec, Segment
from weft.model.node import Node
from weft.model.service import ContainerSpec, TaskSpec
from weft.model.state import ClusterState, Object, Put, Remove
from weft.model.task import Attachment, Task, TaskState, TaskStatus

HOUR = 3600 * SECOND
SECRETS = itertools.count(1)
SEGMENT = Segment(IPv4Network("10.0.1.0/24"), IPv4Address("10.0.1.1"), 4097)
NETWORK = Network(
    id=NetworkId("n"), spec=NetworkSpec(name="secret", encrypted=True), segments=(SEGMENT,)
)


def new_secret(length: int) -> bytes:
    return next(SECRETS).to_bytes(length, "big")


def swarm(*objects: Object) -> ClusterState:
    cluster = Cluster(id=ClusterId("c"), root_ca=RootCa("", ""), join_tokens=JoinTokens("", ""))
    return ClusterState([cluster, *objects])


def run(state: ClusterState, now: int) -> int | None:
    """Runs the loop until it is content; gives when it wants to be woken."""
    for _ in range(3):
        decision = keys.reconcile(state, now, new_secret)
        if not decision.changes:
            return decision.wake_at
        state.apply(decision.changes, now)
    raise AssertionError("the loop does not come to rest")


def test_no_key_without_an_encrypted_network() -> None:
    state = swarm(Network(id=NetworkId("n"), spec=NetworkSpec(name="plain")))
    assert run(state, 1) is None
    assert state.cluster is not None
    assert state.cluster.data_keys == ()


def test_a_key_is_known_for_a_period_before_it_sends() -> None:
    state = swarm(NETWORK)
    known_since: dict[int, int] = {}
    senders = []
    now = 0
    for _ in range(8):
        wake_at = run(state, now)
        assert state.cluster is not None
        ring = state.cluster.data_keys
        assert len(ring) <= 3
        for key in ring:
            known_since.setdefault(key.tag, now)
        sender = sending_key(ring)
        assert sender is not None
        senders.append(sender.tag)
        if len(ring) > 1:
            assert now - known_since[sender.tag] >= 12 * HOUR
        assert len({key.secret for key in ring}) == len(ring)
        assert wake_at == now + 12 * HOUR
        now = wake_at
    assert senders == sorted(senders)


def test_rotation_on_demand_waits_until_the_newest_is_known() -> None:
    state = swarm(NETWORK)
    run(state, 0)
    assert state.cluster is not None
    with pytest.raises(
        FailedPrecondition, match="cannot rotate keys: the last rotation was 3 s ago"
    ):
        keys.rotation(state.cluster, 3 * SECOND, new_secret)
    state.apply([keys.rotation(state.cluster, 20 * SECOND, new_secret)], 20 * SECOND)
    assert [key.tag for key in state.cluster.data_keys] == [1, 2]


def test_keys_go_with_the_last_encrypted_network_and_tags_are_not_used_again() -> None:
    state = swarm(NETWORK)
    run(state, 0)
    state.apply([Remove("network", NETWORK.id, state.networks[NETWORK.id].meta.version)], 1)
    run(state, 2)
    assert state.cluster is not None
    assert list(state.cluster.data_keys) == []
    state.apply([Put(NETWORK)], 3)
    run(state, 4)
    assert [key.tag for key in state.cluster.data_keys] == [2]


def test_rotation_without_keys_is_refused() -> None:
    cluster = swarm().cluster
    assert cluster is not None
    with pytest.raises(FailedPrecondition, match="there is no encrypted network"):
        keys.rotation(cluster, 0, new_secret)


def test_only_nodes_with_a_task_on_an_encrypted_network_get_keys() -> None:
    task = Task(
        id=TaskId("t"),
        service=ServiceId("s"),
        service_name="s",
        slot=1,
        spec=TaskSpec(container=ContainerSpec(image="i")),
        node=NodeId("a"),
        attachments=(Attachment(NETWORK.id, IPv4Interface("10.0.1.5/24")),),
        status=TaskStatus(TaskState.RUNNING),
    )
    state = swarm(NETWORK, Node(id=NodeId("a")), Node(id=NodeId("b")), task)
    run(state, 0)
    assert state.cluster is not None
    views = network_views(state)
    first, other = (assignment_for(state, NodeId(n), views) for n in "ab")
    assert first.keys == state.cluster.data_keys != ()
    assert other.keys == ()
    assert difference(None, other).keys in ((), None)
    run(state, 13 * HOUR)
    later = assignment_for(state, NodeId("a"), network_views(state))
    change = difference(first, later)
    assert change.keys == state.cluster.data_keys
    assert first.after(change) == later
    assert first.after(difference(first, msgspec.structs.replace(first, keys=()))).keys == ()


def test_keys_are_not_printed() -> None:
    state = swarm(NETWORK)
    run(state, 0)
    assert state.cluster is not None
    assert repr(state.cluster.data_keys[0].secret) not in repr(state.cluster)
