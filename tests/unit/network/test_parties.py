"""Who has which address, and which of the tracked connections are told."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from tests.support.swarms import Swarm
from weft.model.flows import Party, Sides, Tracked
from weft.model.local_network import LocalEndpoint, LocalNetwork
from weft.model.service import PublishedPort
from weft.network.kernel_state import HOST
from weft.network.parties import FlowPlace, Parties, is_told, parties, party, places

BRIDGE = LocalNetwork(
    id="b", name="bridge", driver="bridge", pools=((IPv4Network("172.17.0.0/16"), "172.17.0.1"),),
    endpoints=(
        LocalEndpoint(key="c" * 64, name="box", endpoint_id="e", address=IPv4Interface("172.17.0.2/16")),
    ),
)  # fmt: skip
OUTSIDE = IPv4Address("203.0.113.9")


def swarm() -> Swarm:
    made = Swarm(2)
    front = made.network("front", "10.1.0.0/24")
    made.service("web", front, ports=[PublishedPort(target=80, published=8080)], on=[1, 2])
    return made


def known(made: Swarm) -> Parties:
    return parties(made.assignment(1), made.facts(1), made.residents(1), [BRIDGE])


def of(found: Parties, kind: str, name: str = "") -> list[Party]:
    return [each for each in found.values() if each.kind == kind and name in ("", each.name)]


def test_everybody_has_a_name() -> None:
    made = swarm()
    found = known(made)
    assert {party.name for party in of(found, "task")} == {"web.1", "web.2"}
    assert {party.service for party in of(found, "task")} == {"web"}
    # web.1 is here: its address on docker_gwbridge means nothing elsewhere, unlike its two others
    assert [party.is_local for party in of(found, "task", "web.1")].count(True) == 1
    assert not any(party.is_local for party in of(found, "task", "web.2"))
    assert len(of(found, "service", "web")) == 2
    assert {party.name for party in of(found, "node")} == set(made.nodes)
    assert found[made.facts(1).data_path_address] == Party(
        str(made.facts(1).data_path_address), "node", made.nodes[0]
    )
    assert found[IPv4Address("172.17.0.2")] == Party(
        "172.17.0.2", "container", "box", is_local=True
    )
    assert found[IPv4Address("172.17.0.1")].kind == "node"
    assert all(str(address) == party.address for address, party in found.items())
    assert party(found, OUTSIDE, "n") == Party("203.0.113.9", "outside", "203.0.113.9")
    assert party(found, IPv4Address("127.0.0.1"), "n").is_local


def test_the_host_and_each_container_is_a_place() -> None:
    made = swarm()
    found = places(made.residents(1), {"abcdefabcdef": "box"})
    assert [place.name for place in found] == [HOST, "web.1", "box"]
    assert found[1].namespace == made.residents(1)[0].sandbox.key


def test_what_begins_or_ends_in_a_container_is_told() -> None:
    made = swarm()
    found = known(made)
    task = IPv4Address(of(found, "task", "web.2")[0].address)
    node, box = made.facts(1).data_path_address, IPv4Address("172.17.0.2")
    resolver, loopback = IPv4Address("127.0.0.11"), IPv4Address("127.0.0.1")
    host, container = FlowPlace(HOST, HOST), FlowPlace("abcdefabcdef", "web.1")

    def told(place: FlowPlace, source: IPv4Address, asked: IPv4Address, end: IPv4Address) -> bool:
        sides, carried = Sides(source, 4000, asked, 80), Sides(source, 4000, end, 80)
        return is_told(place, Tracked(6, sides, carried, "open"), found)

    assert told(host, OUTSIDE, node, task)
    assert told(host, loopback, loopback, task)
    assert told(host, box, OUTSIDE, OUTSIDE)
    assert told(container, OUTSIDE, task, task)
    assert not told(host, OUTSIDE, node, node)
    assert not told(host, node, OUTSIDE, OUTSIDE)
    assert not told(container, loopback, resolver, resolver)
