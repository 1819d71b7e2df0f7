"""Hosts' routes are kept clear where that can be had, and no host can refuse networks to the
others."""

from ipaddress import IPv4Network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.control_room import ControlRoom
from weft.control.allocator import routes, subnets
from weft.control.allocator.routes import MOST_ROUTES
from weft.control.requests import networks
from weft.errors import Exhausted
from weft.model.ids import NetworkId, NodeId
from weft.model.network import Network, NetworkSpec, Pool
from weft.model.node import NodeState

POOL = IPv4Network("10.0.0.0/16")
EVERYTHING = ("0.0.0.0/1", "128.0.0.0/1")
EVERY_SUBNET = tuple(str(subnet) for subnet in IPv4Network("10.0.0.0/8").subnets(new_prefix=16))


def reports(room: ControlRoom, node: str, *texts: str) -> None:
    room.put(msgspec.structs.replace(room.state.nodes[NodeId(node)], routes=texts))


def created(room: ControlRoom, name: str, *subnets: str) -> Network:
    """As a user asks for it."""
    spec = NetworkSpec(name=name, pools=tuple(Pool(IPv4Network(subnet)) for subnet in subnets))
    id = NetworkId(room.new_id("net"))
    room.commit(networks.creation(room.state, id, spec))
    room.settle()
    return room.state.networks[id]


def automatic(room: ControlRoom) -> str:
    network = created(room, f"net{room.state.revision}")
    assert network.error == ""
    return str(network.segments[0].subnet)


@pytest.fixture
def room() -> ControlRoom:
    room = ControlRoom(nodes=2)
    room.settle()
    return room


def test_an_automatic_subnet_is_none_that_a_host_has_a_route_to(room: ControlRoom) -> None:
    reports(room, "node1", "10.0.1.0/24", "0.0.0.0/0", "fe80::/64", "nonsense")
    reports(room, "node2", "10.0.2.128/25", "192.168.0.0/16")
    assert automatic(room) == "10.0.3.0/24"
    assert room.state.ingress is not None
    assert networks.warnings(room.state, room.state.ingress, ()) == []


@pytest.mark.parametrize("claim", [("10.0.0.0/8",), EVERYTHING, EVERY_SUBNET, EVERY_SUBNET * 5])
def test_who_claims_everything_gets_nothing(room: ControlRoom, claim: tuple[str, ...]) -> None:
    """A host whose VPN takes all private addresses, or one that lies; what the others say still
    counts."""
    reports(room, "node1", "10.0.1.0/24")
    reports(room, "node2", *claim)
    assert automatic(room) == "10.0.2.0/24"
    network = created(room, "chosen", "10.99.0.0/24")
    assert str(network.segments[0].subnet) == "10.99.0.0/24"


def test_a_warning_says_which_hosts_are_concerned(room: ControlRoom) -> None:
    for number in range(3, 8):
        room.join(f"node{number}")
        reports(room, f"node{number}", "10.96.0.0/11")
    reports(room, "node1", "10.99.0.0/25")
    network = created(room, "chosen", "10.99.0.0/24", "10.50.0.0/24")
    own = [IPv4Network("10.50.0.0/16"), IPv4Network("0.0.0.0/0")]
    lost = "containers on this network cannot reach what is there"
    assert networks.warnings(room.state, network, own) == [
        "subnet 10.99.0.0/24 overlaps routes of node1 (10.99.0.0/25), node3 (10.96.0.0/11), "
        f"node4 (10.96.0.0/11) and 3 more: {lost}",
        f"subnet 10.50.0.0/24 overlaps routes of this host (10.50.0.0/16): {lost}",
    ]


def test_a_host_that_is_gone_does_not_count(room: ControlRoom) -> None:
    reports(room, "node2", "10.0.1.0/24")
    room.set_node("node2", NodeState.DOWN)
    assert automatic(room) == "10.0.1.0/24"
    network = next(n for n in room.state.networks.values() if not n.spec.ingress)
    assert networks.warnings(room.state, network, ()) == []


def test_networks_still_refuse_each_other(room: ControlRoom) -> None:
    """What a network has is no wish."""
    cluster = room.state.cluster
    assert cluster is not None
    pool = (IPv4Network("10.0.0.0/23"),)
    room.put(msgspec.structs.replace(cluster, default_pool=pool))
    reports(room, "node1", "10.0.1.0/24")
    assert automatic(room) == "10.0.1.0/24"
    assert created(room, "more").error == "no subnet of size /24 is left in 10.0.0.0/23"


def test_a_host_tells_so_many_routes_and_a_manager_reads_no_more(room: ControlRoom) -> None:
    public = [IPv4Network(f"8.{n}.0.0/16") for n in range(250)]
    private = [*IPv4Network("10.64.0.0/10").subnets(new_prefix=18)]
    told = routes.worth_telling([*public, *private, IPv4Network("0.0.0.0/0"), POOL, POOL])
    assert len(told) == MOST_ROUTES
    assert {str(POOL), *map(str, private[: MOST_ROUTES - 1])} == set(told)
    reports(room, "node1", *(["nonsense"] * MOST_ROUTES), "10.0.1.0/24")
    assert routes.claimed(room.state) == set()


parts = st.builds(
    lambda bits, length: IPv4Network(((10 << 24 | bits) >> 32 - length << 32 - length, length)),
    st.integers(0, 2**18 - 1),
    st.integers(6, 28),
)


@given(st.lists(parts, max_size=12), st.lists(parts, max_size=12))
def test_routes_change_which_subnet_is_chosen_and_never_whether(
    taken: list[IPv4Network], avoided: list[IPv4Network]
) -> None:
    def chosen(*more: IPv4Network) -> IPv4Network | None:
        try:
            return subnets.choose([POOL], 24, [*taken, *more], avoided)
        except Exhausted:
            return None

    free = [s for s in POOL.subnets(new_prefix=24) if not any(s.overlaps(t) for t in taken)]
    clear = [s for s in free if not any(s.overlaps(route) for route in avoided)]
    assert chosen() == (clear[0] if clear else chosen())
    assert (chosen() in free) if free else chosen() is None
    if not clear and free:
        # What is given up is wide: no other free subnet overlaps narrower routes only.
        def narrowest(subnet: IPv4Network) -> int:
            return max(route.prefixlen for route in avoided if route.overlaps(subnet))

        found = chosen()
        assert found is not None
        assert narrowest(found) == min(map(narrowest, free))


def test_the_default_route_is_not_warned_of() -> None:
    room = ControlRoom(nodes=1)
    reports(room, "node1", "0.0.0.0/0", "10.0.0.1/8")
    assert routes.claimed(room.state) == {IPv4Network("10.0.0.0/8")}
    network = created(room, "chosen", "10.99.0.0/24")
    [warning] = networks.warnings(room.state, network, [IPv4Network("10.0.0.0/8")])
    assert warning.startswith("subnet 10.99.0.0/24 overlaps routes of node1 (10.0.0.0/8): ")
