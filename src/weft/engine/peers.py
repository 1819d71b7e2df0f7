"""Whether packets get from this host to the others: on the underlay, and through each network from
this host's load balancer to the other host's; small ones, and the largest that must fit.

    underlay  network                    then
    yes       yes                        nothing is wrong
    no        yes                        nothing: a filter drops ICMP
    yes       no                         something drops VXLAN or ESP
    no        no                         the hosts are cut off from each other
    small ones only                      the path is narrower than its ends
"""

from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address

import msgspec

from weft.model.assignment import NetworkView, Overlays
from weft.model.finding import Finding
from weft.model.ids import NodeId
from weft.model.sandbox import NodeFacts
from weft.network.kernel_state import HOST
from weft.network.overlay import mtu_of
from weft.network.ownership import INGRESS_SANDBOX, balancer_namespace

SMALL = 64
"""Bytes of a packet that always fits."""
WIDER = "raise the MTU of the path, or lower that of the interfaces and restart the daemons"


class Question(msgspec.Struct, frozen=True):
    """Whether a packet of that many bytes gets from a namespace to an address and back."""

    namespace: str
    address: IPv4Address
    size: int


class Leg(msgspec.Struct, frozen=True, kw_only=True):
    """The way through one network."""

    network: str
    encrypted: bool
    small: Question
    large: Question


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """The way to another host."""

    peer: NodeId
    host: IPv4Address
    small: Question
    large: Question
    legs: tuple[Leg, ...]

    @property
    def questions(self) -> tuple[Question, ...]:
        through = (question for leg in self.legs for question in (leg.small, leg.large))
        return (self.small, self.large, *through)


def ways(overlays: Overlays, facts: NodeFacts) -> list[Way]:
    """To all hosts with a load balancer on a network on which this host has one."""
    hosts: dict[tuple[NodeId, IPv4Address], list[Leg]] = {}
    widest = facts.underlay_mtu
    for view in overlays.networks.values():
        if view.load_balancer(facts.node) is None:
            continue
        widest = min(widest, view.definition.underlay_mtu or widest)
        for endpoint in view.endpoints.values():
            if endpoint.task is None and endpoint.node != facts.node:
                leg = _leg(view, endpoint.address.ip, facts)
                hosts.setdefault((endpoint.node, endpoint.vtep), []).append(leg)
    return [
        Way(
            peer=node,
            host=vtep,
            small=Question(HOST, vtep, SMALL),
            large=Question(HOST, vtep, widest),
            legs=tuple(legs),
        )
        for (node, vtep), legs in hosts.items()
    ]


def _leg(view: NetworkView, address: IPv4Address, facts: NodeFacts) -> Leg:
    definition = view.definition
    space = INGRESS_SANDBOX if definition.ingress else balancer_namespace(definition.id)
    return Leg(
        network=definition.name,
        encrypted=definition.encrypted,
        small=Question(space, address, SMALL),
        large=Question(space, address, mtu_of(definition, facts)),
    )


def judged(
    asked: Iterable[Way], is_answered: Callable[[Question], bool], data_path_port: int
) -> Iterator[Finding]:
    for way in asked:
        through = [leg for leg in way.legs if is_answered(leg.small)]
        if not is_answered(way.small) and not through:
            yield _finding(
                way,
                "no packet is answered, neither on the underlay nor through a network",
                "look at the other host, the cable, and routes and firewalls between them",
            )
            continue
        yield from _dropped(way, through, data_path_port)
        if is_answered(way.small) and not is_answered(way.large):
            yield _finding(
                way,
                f"packets of {way.large.size} bytes do not arrive and may not be split: the path is"
                " narrower than the hosts' interfaces",
                WIDER,
            )
            continue
        narrow = next((leg for leg in through if not is_answered(leg.large)), None)
        if narrow is not None:
            yield _finding(
                way,
                f"packets of {narrow.large.size} bytes do not arrive through network"
                f" {narrow.network}, and smaller ones do",
                WIDER,
            )


def _dropped(way: Way, through: list[Leg], port: int) -> Iterator[Finding]:
    """One finding for clear networks, and one for encrypted ones."""
    for encrypted in (False, True):
        silent = [leg for leg in way.legs if leg.encrypted == encrypted and leg not in through]
        if not silent:
            continue
        names = ", ".join(leg.network for leg in silent)
        carrier = "ESP (IP protocol 50)" if encrypted else f"UDP port {port} (VXLAN)"
        yield _finding(
            way,
            f"nothing comes back through {names}: a firewall drops {carrier}, or the other host's"
            " network is not up",
            f"let {carrier} through on both hosts and between them",
        )


def _finding(way: Way, cause: str, remedy: str) -> Finding:
    return Finding(
        severity="error", what=f"way to {way.host}", cause=cause, remedy=remedy, peer=str(way.host)
    )
