"""One packet of IPv6 through a node's own networks, on the rules as they are planned."""

import asyncio
from ipaddress import IPv4Interface, IPv6Address, IPv6Interface, IPv6Network

from tests.unit.network.test_bridge_ipv6_plan import BACK, FRONT, OLD, planned, sandbox
from weft.linux.fake import UPLINK, FakeKernel
from weft.linux.fake_underlay import FakeUnderlay, Journey, Place
from weft.model.host_ports import ANY_IPV6
from weft.model.local_sandbox import LocalSandbox
from weft.model.service import PublishedPort
from weft.model.trace import Packet
from weft.network import operations as op
from weft.network.diff import diff
from weft.network.kernel_state import HOST, Route

OWN, CLIENT = IPv6Address("2001:db8::1"), IPv6Address("2001:db8::7")
WEB = sandbox("web", BACK, ports=(PublishedPort(80, 8080, host_address=ANY_IPV6),))
NEAR, RED, BARE = sandbox("near", BACK), sandbox("red", FRONT), sandbox("bare", OLD)
AT_WEB = WEB.endpoints[0].ipv6_address


class Node:
    """A host with IPv6 on its wire, in memory."""

    def __init__(self) -> None:
        self.kernel = FakeKernel(IPv4Interface("192.0.2.1/24"))
        way = Route(destination=IPv6Network("::/0"), via=IPv6Address("2001:db8::ff"), device=UPLINK)
        self.kernel.damage(
            op.AddAddress(HOST, UPLINK, IPv6Interface((int(OWN), 64))), op.AddRoute(HOST, way)
        )
        self.underlay = FakeUnderlay()
        self.underlay.join("node1", self.kernel)
        asyncio.run(self._apply())

    async def _apply(self) -> None:
        desired = planned(WEB, NEAR, RED, BARE)
        await self.kernel.apply(diff(await self.kernel.read(desired), desired))
        assert diff(await self.kernel.read(desired), desired) == []

    def asks(
        self, place: LocalSandbox | None, to: IPv6Address, port: int, source: str = "::"
    ) -> Journey:
        """None: the host itself."""
        packet = Packet("tcp", IPv6Address(source), 40000, to, port)
        return self.underlay.trace(packet, Place("node1", HOST if place is None else place.key))

    def comes_back(self, request: Journey) -> bool:
        asked = next(s.packet for s in request.steps if not s.packet.source.is_unspecified)
        answer = self.underlay.answer(request)
        return answer.packet == asked.reversed()


def test_a_published_port_is_reached_from_everywhere_and_answers() -> None:
    node = Node()
    assert AT_WEB is not None
    outside = node.underlay.trace(Packet("tcp", CLIENT, 40000, OWN, 8080))
    for request, seen in (
        (outside, CLIENT),
        (node.asks(None, OWN, 8080), OWN),
        (node.asks(NEAR, OWN, 8080), BACK.ipv6_gateway),
        (node.asks(RED, OWN, 8080), BACK.ipv6_gateway),
    ):
        assert (request.end, request.place) == ("delivered", Place("node1", WEB.key))
        assert request.packet is not None
        assert (request.packet.source, request.packet.destination) == (seen, AT_WEB.ip)
        assert request.packet.destination_port == 80
        assert node.comes_back(request)
    assert node.asks(None, IPv6Address("::1"), 8080).place == Place("node1", HOST)


def test_what_is_not_published_is_closed() -> None:
    node = Node()
    assert AT_WEB is not None
    assert node.asks(NEAR, AT_WEB.ip, 80).end == "delivered"
    assert node.asks(RED, AT_WEB.ip, 80).end == "drop by bridge-forward"
    assert node.asks(BARE, AT_WEB.ip, 80).end == f"no route to {AT_WEB.ip}"
    assert node.asks(NEAR, AT_WEB.ip, 80, "fd00:12::99").end == "drop by source-guard"


def test_the_way_out_is_masqueraded() -> None:
    node = Node()
    request = node.asks(WEB, CLIENT, 443)
    assert (request.end, request.packet and request.packet.source) == ("left", OWN)
    assert node.comes_back(request)
