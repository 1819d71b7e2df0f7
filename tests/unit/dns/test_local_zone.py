"""The names that a node's own containers see."""

import random
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface

import dnslib
from msgspec.structs import replace

from weft.dns.local_zone import local_zone
from weft.dns.resolver import answer
from weft.dns.zone import Zone
from weft.model.bridge_network import BridgeNetwork, BridgeNetworkSpec
from weft.model.ids import ContainerId, NetworkId
from weft.model.local_sandbox import BridgeEndpoint, LocalSandbox


def network(name: str, *, internal: bool = False) -> BridgeNetwork:
    return BridgeNetwork(
        id=NetworkId(name),
        spec=BridgeNetworkSpec(name=name, internal=internal),
        subnet=IPv4Network("10.0.0.0/8"),
        gateway=IPv4Address("10.0.0.1"),
        is_default=name == "bridge",
    )


NETWORKS = {n.id: n for n in (network("bridge"), network("back"), network("inner", internal=True))}


def place(
    name: str, last: int, *at: str, aliases: tuple[str, ...] = (), **more: object
) -> LocalSandbox:
    return LocalSandbox(
        container=ContainerId(name.encode().hex().ljust(64, "0")),
        name=name,
        endpoints=tuple(
            BridgeEndpoint(
                network=NetworkId(each),
                number=i,
                address=IPv4Interface(f"10.0.{i}.{last}/8"),
                mac="02:42:00:00:00:01",
                aliases=aliases,
            )
            for i, each in enumerate(at)
        ),
        **more,  # type: ignore[arg-type]
    )


DB = place("DB", 5, "back", aliases=("store",), hostname="db1")
SPARE = place("spare", 6, "back", aliases=("store",))
PLAIN = place("plain", 7, "bridge")


def zone(own: LocalSandbox) -> Zone:
    return local_zone(own, NETWORKS, (own, DB, SPARE, PLAIN))


def shown(own: LocalSandbox, name: str) -> list[str] | None:
    found = zone(own).addresses(name)
    return None if found is None else sorted(map(str, found))


def test_a_container_is_found_by_each_of_its_names() -> None:
    own = place("web", 9, "back")
    for name in ("db", "DB", "db1", DB.container[:12], "db.back"):
        assert shown(own, name) == ["10.0.0.5"]
    assert shown(own, "store") == ["10.0.0.5", "10.0.0.6"]
    assert shown(own, "web") == ["10.0.0.9"]
    assert zone(own).pointer(IPv4Address("10.0.0.5")) == "DB.back"
    assert shown(own, "plain") is None


def asked(own: Zone, name: str, type: str) -> tuple[str, list[str]]:
    query = dnslib.DNSRecord.question(name, type).pack()
    found = answer(query, own, random.Random(1))
    assert isinstance(found, bytes)
    reply = dnslib.DNSRecord.parse(found)
    return dnslib.RCODE[reply.header.rcode], sorted(str(record.rdata) for record in reply.rr)


def test_addresses_of_ipv6_have_names_too() -> None:
    def with_ipv6(place: LocalSandbox, address: str) -> LocalSandbox:
        endpoints = [replace(e, ipv6_address=IPv6Interface(address)) for e in place.endpoints]
        return replace(place, endpoints=tuple(endpoints))

    own, db = place("web", 9, "back"), with_ipv6(DB, "fd00::5/64")
    both = local_zone(own, NETWORKS, (own, db, with_ipv6(SPARE, "fd00::6/64"), PLAIN))
    for name in ("db", "DB.back", "db1"):
        assert asked(both, name, "AAAA") == ("NOERROR", ["fd00::5"])
        assert asked(both, name, "A") == ("NOERROR", ["10.0.0.5"])
    assert asked(both, "store", "AAAA") == ("NOERROR", ["fd00::5", "fd00::6"])
    assert asked(both, "web", "AAAA") == ("NOERROR", [])
    pointer = IPv6Address("fd00::5").reverse_pointer
    assert asked(both, pointer, "PTR") == ("NOERROR", ["DB.back."])
    inner = replace(both, forwards=False)
    for wrong in (IPv6Address("fd00::7").reverse_pointer, "5.ip6.arpa", "x" + pointer):
        assert asked(inner, wrong, "PTR") == ("SERVFAIL", [])
    # The network that is searched first knows the name, and has no IPv6.
    two = place("two", 8, "inner", "back")
    other = with_ipv6(DB, "fd00::5/64").endpoints[0]
    split = replace(DB, endpoints=(place("DB", 5, "inner").endpoints[0], other))
    found = local_zone(two, NETWORKS, (two, split))
    assert found.addresses("db") == (IPv4Address("10.0.0.5"),)
    assert found.ipv6_addresses("db") == (IPv6Address("fd00::5"),)


def test_other_networks_and_the_default_one_have_no_names_for_it() -> None:
    for own in (place("web", 9, "inner"), place("web", 9, "bridge"), place("web", 9)):
        assert shown(own, "db") is None
    assert shown(place("web", 9, "bridge", "back"), "db") == ["10.0.0.5"]


def test_questions_leave_an_internal_network_only_to_servers_of_the_user_s() -> None:
    assert zone(place("web", 9, "back")).forwards
    assert zone(place("web", 9, "inner", "bridge")).forwards
    assert not zone(place("web", 9, "inner")).forwards
    assert zone(place("web", 9, "inner", dns_servers=("192.0.2.53",))).forwards
    assert zone(place("web", 9, "back", dns_options=("ndots:2",))).ndots == 2
