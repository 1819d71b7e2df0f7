"""The netlink codec against the kernel, with `ip -j` and pyroute2 as witnesses. Everything happens
in a namespace without a name that ends with the test."""

import ctypes
import json
import os
import subprocess
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest

from tests.kernel.throwaway import Here, in_throwaway, sh
from weft.errors import OperationFailed
from weft.linux import netns
from weft.linux.netlink import address, link, neighbour, nftables, route, rule
from weft.linux.netlink.message import NetlinkError
from weft.linux.netlink.socket import NETLINK_NETFILTER, NetlinkSocket
from weft.linux.nft import LIBRARY, Nft
from weft.network.kernel_state import Bridge, BridgePort, Link, Route, Rule, Table, Veth, Vxlan

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

VXLAN = Vxlan(vni=4097, local=IPv4Address("127.0.0.1"), port=4790)


def ip(*words: str) -> Any:
    done = subprocess.run(["ip", "-j", "-d", *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout or "[]")


@in_throwaway
def test_links_that_we_make_ip_reads() -> None:
    with Here() as here:
        ends = (
            Link(name="veth1", kind=Veth(), mtu=1450),
            Link(name="eth0", kind=Veth(), mtu=1424, mac="02:42:0a:00:00:05"),
        )
        here.do(
            link.add_bridge(Link(name="br0", kind=Bridge(), mtu=1450)),
            link.add_vxlan(Link(name="vxlan0", kind=VXLAN, mtu=1450), VXLAN, here.descriptor),
            link.add_veth(*ends, here.descriptor),
        )
        bridge = here.index("br0")
        here.do(
            link.set_link("veth1", master=bridge, up=True),
            link.set_port("veth1", BridgePort(isolated=True, learning=False, flood=False)),
            link.set_link("eth0", mtu=1400, mac_address="02:42:0a:00:00:06"),
        )
        found = {entry["ifname"]: entry for entry in ip("link", "show")}
        assert found["br0"]["linkinfo"]["info_kind"] == "bridge"
        assert (found["eth0"]["mtu"], found["eth0"]["address"], "UP" in found["eth0"]["flags"]) == (
            1400,
            "02:42:0a:00:00:06",
            False,
        )
        port = found["veth1"]
        assert (port["mtu"], port["master"], "UP" in port["flags"]) == (1450, "br0", True)
        settings = port["linkinfo"]["info_slave_data"]
        assert (settings["isolated"], settings["learning"], settings["flood"]) == (
            True,
            False,
            False,
        )
        data = found["vxlan0"]["linkinfo"]["info_data"]
        assert {key: data[key] for key in ("id", "local", "port", "learning", "proxy", "l2miss", "l3miss")} == {
            "id": 4097, "local": "127.0.0.1", "port": 4790, "learning": False, "proxy": True, "l2miss": True, "l3miss": True,
        }  # fmt: skip
        here.do(link.set_link("veth1", master=0), link.remove_link("eth0"))
        assert {entry["ifname"] for entry in ip("link", "show")} == {"lo", "br0", "vxlan0"}


@in_throwaway
def test_links_that_ip_makes_we_read() -> None:
    with Here() as here:
        sh(
            "ip link add br0 type bridge && ip link add veth1 mtu 1450 type veth peer name eth0"
            " address 02:42:0a:00:00:05"
        )
        sh(
            "ip link add vx type vxlan id 4097 local 127.0.0.1 dstport 4790 && ip link set veth1"
            " master br0 up"
        )
        sh("bridge link set dev veth1 isolated on flood off")
        found = here.links()
        assert (found["vx"].kind, found["vx"].vxlan) == ("vxlan", VXLAN)
        assert (found["eth0"].kind, found["eth0"].mac, found["eth0"].up) == (
            "veth",
            "02:42:0a:00:00:05",
            False,
        )
        port = found["veth1"]
        assert (port.mtu, port.master, port.up) == (1450, found["br0"].device, True)
        assert port.port == BridgePort(isolated=True, learning=True, flood=False)
        assert (found["lo"].kind, found["lo"].up) == ("", True)


def devices(here: Here) -> tuple[int, int]:
    here.do(
        link.add_bridge(Link(name="br0", kind=Bridge(), mtu=1450, mac="02:42:0a:00:00:01")),
        link.add_vxlan(Link(name="vxlan0", kind=VXLAN, mtu=1450), VXLAN, here.descriptor),
        link.set_link("br0", up=True),
        link.set_link("vxlan0", up=True),
    )
    return here.index("br0"), here.index("vxlan0")


@in_throwaway
def test_addresses() -> None:
    with Here() as here:
        bridge, _ = devices(here)
        own = IPv4Interface("10.0.0.1/24")
        here.do(address.add_address(bridge, own), address.add_address(bridge, own))
        [shown] = ip("-4", "addr", "show", "dev", "br0")[0]["addr_info"]
        assert (shown["local"], shown["prefixlen"], shown["broadcast"]) == (
            "10.0.0.1",
            24,
            "10.0.0.255",
        )
        sh("ip addr add 192.0.2.1/32 dev br0")
        found = {
            info.address
            for info in here.all(address.dump_addresses(), address.decode_address)
            if info.device == bridge
        }
        assert found == {own, IPv4Interface("192.0.2.1/32")}
        here.do(address.remove_address(bridge, own))
        assert [a["local"] for a in ip("-4", "addr", "show", "dev", "br0")[0]["addr_info"]] == [
            "192.0.2.1"
        ]


@in_throwaway
def test_neighbours_and_forwarding_entries() -> None:
    with Here() as here:
        _, vxlan = devices(here)
        far, mac, vtep = IPv4Address("10.0.0.3"), "02:42:0a:00:00:03", IPv4Address("192.0.2.12")
        here.do(
            neighbour.add_neighbour(vxlan, far, mac),
            neighbour.add_forwarding(vxlan, mac, IPv4Address("192.0.2.11")),
        )
        here.do(neighbour.add_forwarding(vxlan, mac, vtep))
        [shown] = ip("neigh", "show", "dev", "vxlan0")
        assert (shown["dst"], shown["lladdr"], shown["state"]) == ("10.0.0.3", mac, ["PERMANENT"])
        fdb = json.loads(
            subprocess.run(
                "bridge -j fdb show dev vxlan0", shell=True, capture_output=True, check=True
            ).stdout
        )
        [entry] = [e for e in fdb if e["mac"] == mac]
        assert (entry["dst"], entry["state"], entry["flags"]) == (
            "192.0.2.12",
            "permanent",
            ["self"],
        )

        sh("bridge fdb add 02:42:0a:00:00:09 dev vxlan0 dst 192.0.2.19 self permanent")
        found = here.all(neighbour.dump_forwarding(), neighbour.decode_neighbour)
        assert ("02:42:0a:00:00:09", b"\xc0\x00\x02\x13", True) in {
            (n.mac, n.destination, n.permanent) for n in found
        }
        here.do(
            neighbour.remove_neighbour(vxlan, far, mac),
            neighbour.remove_forwarding(vxlan, mac, vtep),
        )
        assert ip("neigh", "show", "dev", "vxlan0") == []
        errors = here.socket.execute([neighbour.remove_forwarding(vxlan, mac, vtep)])
        assert isinstance(errors[0], NetlinkError)


@in_throwaway
def test_routes() -> None:
    with Here() as here:
        bridge, _ = devices(here)
        here.do(address.add_address(bridge, IPv4Interface("10.0.0.1/24")))
        routes = {
            Route(
                destination=IPv4Network("0.0.0.0/0"), device="br0", via=IPv4Address("10.0.0.254")
            ),
            Route(
                destination=IPv4Network("10.5.0.0/16"),
                device="br0",
                table=5917,
                source=IPv4Address("10.0.0.1"),
            ),
            Route(
                destination=IPv4Network("0.0.0.0/0"),
                device="br0",
                via=IPv4Address("10.99.0.1"),
                onlink=True,
                table=100,
            ),
        }
        here.do(
            *(route.add_route(bridge, wanted) for wanted in routes),
            *(route.add_route(bridge, wanted) for wanted in routes),
        )
        ours = [
            r
            for r in ip("-N", "route", "show", "table", "all")
            if r["protocol"] == str(route.PROTOCOL_WEFT)
        ]
        shown = {(r["dst"], r.get("gateway"), r.get("prefsrc"), r["table"]) for r in ours}
        assert shown == {
            ("default", "10.0.0.254", None, "254"),
            ("10.5.0.0/16", None, "10.0.0.1", "5917"),
            ("default", "10.99.0.1", None, "100"),
        }
        sh("ip route add 10.6.0.0/16 via 10.0.0.9 table 300")
        found = {
            r.route("br0")
            for r in here.all(route.dump_routes(), route.decode_route)
            if r.device == bridge and r.unicast
        }
        assert (
            routes
            | {
                Route(
                    destination=IPv4Network("10.6.0.0/16"),
                    device="br0",
                    via=IPv4Address("10.0.0.9"),
                    table=300,
                )
            }
            <= found
        )
        here.do(*(route.remove_route(bridge, wanted) for wanted in routes))
        assert ip("route", "show", "table", "5917") == []


@in_throwaway
def test_rules() -> None:
    with Here() as here:
        rules = {
            Rule(priority=900, table=5917, mark=0x20000, mask=0xFFFF0000),
            Rule(
                priority=1001, table=110, input_device="lo", protocol=17, source_ports=(7001, 7001)
            ),
            Rule(priority=1002, table=254),
            Rule(priority=1003, table=110, protocol=17, source_ports=(7001, 7999)),
        }
        here.do(*map(rule.add_rule, rules))
        shown = {entry["priority"]: entry for entry in ip("rule", "show")}
        assert (shown[900]["fwmark"], shown[900]["fwmask"], shown[900]["table"]) == (
            "0x20000",
            "0xffff0000",
            "5917",
        )
        assert (shown[1001]["iif"], shown[1001]["ipproto"], shown[1001]["sport"]) == (
            "lo",
            "udp",
            7001,
        )
        assert (shown[1003]["sport_start"], shown[1003]["sport_end"]) == (7001, 7999)
        sh(
            "ip rule add priority 7 to 10.0.0.0/8 table 100 && ip rule add priority 8 fwmark 0x5"
            " table 100"
        )
        found = set(filter(None, here.all(rule.dump_rules(), rule.decode_rule)))
        assert found == rules | {Rule(priority=8, table=100, mark=5, mask=0xFFFFFFFF)}
        here.do(*map(rule.remove_rule, rules))
        assert set(shown) - {entry["priority"] for entry in ip("rule", "show")} == {
            900,
            1001,
            1002,
            1003,
        }


@in_throwaway
def test_a_batch_names_the_requests_that_failed_and_does_the_others() -> None:
    with Here() as here:
        bridges = [
            link.add_bridge(Link(name=f"br{i % 600}", kind=Bridge(), mtu=1450))
            for i in (1, 2, 1, 3)
        ]
        errors = here.socket.execute([*bridges, link.remove_link("nothing")])
        assert {at: error.errno for at, error in errors.items()} == {2: 17, 4: 19}
        assert {"br1", "br2", "br3"} <= here.links().keys()


@in_throwaway
def test_thousands_of_entries_in_and_out() -> None:
    with Here() as here:
        _, vxlan = devices(here)
        macs = [f"02:42:0a:01:{i >> 8:02x}:{i & 255:02x}" for i in range(3000)]
        here.do(*(neighbour.add_forwarding(vxlan, mac, IPv4Address("192.0.2.1")) for mac in macs))
        found = here.all(neighbour.dump_forwarding(), neighbour.decode_neighbour)
        assert {n.mac for n in found if n.destination} == set(macs)


@pytest.mark.parametrize("library", [LIBRARY, None], ids=["library", "command"])
def test_nftables_by_library_and_by_command(library: ctypes.CDLL | None) -> None:
    def check() -> None:
        nft = Nft(library)
        names = NetlinkSocket(NETLINK_NETFILTER)
        body = (
            'chain a {\n type filter hook input priority 0; policy accept;\n iifname "eth0" counter'
            " drop\n}"
        )
        nft.replace(Table("ip", "weft", body))
        listing = nft.listing("ip", "weft")
        nft.replace(Table("ip", "weft", body))
        assert nft.listing("ip", "weft") == listing
        assert [nftables.decode_table(entry) for entry in names.dump(*nftables.dump_tables())] == [
            ("ip", "weft")
        ]
        with pytest.raises(OperationFailed, match="syntax error"):
            nft.replace(Table("ip", "weft", "chain a { bogus }"))
        assert nft.listing("ip", "weft") == listing
        nft.remove("ip", "weft")
        nft.remove("ip", "weft")
        assert names.dump(*nftables.dump_tables()) == []
        nft.close()
        names.close()

    netns.run_in_throwaway(check)
