"""The names that a node's own containers see."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from weft.dns.local_zone import local_zone
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
