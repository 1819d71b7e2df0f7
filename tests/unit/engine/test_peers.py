"""What answered packets say about the way between two hosts."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from weft.engine.peers import Leg, Question, Way, judged, ways
from weft.model.assignment import (
    EndpointRecord,
    NetworkDefinition,
    NetworkView,
    Overlays,
    load_balancer_id,
)
from weft.model.ids import NetworkId, NodeId
from weft.model.network import Segment
from weft.model.sandbox import NodeFacts

HOST = IPv4Address("192.0.2.2")
SUBNET = IPv4Network("10.0.0.0/24")


def leg(network: str, number: int, encrypted: bool = False) -> Leg:
    address = SUBNET[number]
    return Leg(
        network=network,
        encrypted=encrypted,
        small=Question(network, address, 64),
        large=Question(network, address, 1450),
    )


PLAIN, SECRET = leg("ingress", 3), leg("secret", 4, encrypted=True)
WAY = Way(
    peer=NodeId("node2"),
    host=HOST,
    small=Question("host", HOST, 64),
    large=Question("host", HOST, 1500),
    legs=(PLAIN, SECRET),
)


@pytest.mark.parametrize(
    ("silent", "words"),
    [
        ((), []),
        (WAY.questions, ["neither on the underlay nor through a network"]),
        ((WAY.small, WAY.large), []),  # a filter of ICMP
        ((PLAIN.small, PLAIN.large), ["through ingress: a firewall drops UDP port 4789 (VXLAN)"]),
        ((SECRET.small, SECRET.large), ["through secret: a firewall drops ESP (IP protocol 50)"]),
        (
            (PLAIN.small, PLAIN.large, SECRET.small, SECRET.large),
            ["drops UDP port 4789", "drops ESP"],
        ),
        ((WAY.large, PLAIN.large, SECRET.large), ["packets of 1500 bytes do not arrive"]),
        ((SECRET.large,), ["packets of 1450 bytes do not arrive through network secret"]),
    ],
)
def test_the_cause_follows_from_what_is_not_answered(
    silent: tuple[Question, ...], words: list[str]
) -> None:
    found = list(judged([WAY], lambda question: question not in silent, 4789))
    assert len(found) == len(words), found
    for finding, part in zip(found, words, strict=True):
        assert part in finding.cause
        assert finding.what == "way to 192.0.2.2"
        assert finding.peer == "192.0.2.2"


def view(name: str, *nodes: int) -> NetworkView:
    id = NetworkId(name)
    definition = NetworkDefinition(
        id=id,
        name=name,
        segments=(Segment(SUBNET, SUBNET[1], 4096),),
        ingress=name == "ingress",
        encrypted=name == "secret",
        underlay_mtu=1400,
    )
    endpoints = {}
    for number in nodes:
        node = NodeId(f"node{number}")
        key = load_balancer_id(node)
        endpoints[key] = EndpointRecord(
            id=key,
            network=id,
            address=IPv4Interface((SUBNET[number + 1], 24)),
            node=node,
            vtep=IPv4Address("192.0.2.0") + number,
        )
    return NetworkView(definition, endpoints, {})


def test_ways_lead_through_the_networks_of_both_hosts() -> None:
    views = (view("ingress", 1, 2, 3), view("secret", 1, 3), view("others", 2, 3))
    overlays = Overlays(networks={v.definition.id: v for v in views})
    facts = NodeFacts(
        node=NodeId("node1"),
        data_path_address=IPv4Address("192.0.2.1"),
        underlay_mtu=1500,
        esp_engine="userspace",
    )
    found = {way.peer: way for way in ways(overlays, facts)}
    assert {peer: [leg.network for leg in way.legs] for peer, way in found.items()} == {
        "node2": ["ingress"],
        "node3": ["ingress", "secret"],
    }
    third = found[NodeId("node3")]
    assert third.large == Question("host", IPv4Address("192.0.2.3"), 1400), "as hosts agreed"
    assert third.legs[0].small == Question("ingress_sbox", SUBNET[4], 64)
    assert third.legs[0].large.size == 1350
    assert third.legs[1].large.size < 1350, "ESP takes room"
    assert third.legs[1].small.namespace == "lb_secret"
    assert ways(Overlays(networks={NetworkId("others"): views[2]}), facts) == []
