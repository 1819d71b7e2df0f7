"""RealKernel against the real kernel. Each test has a host's namespace of its own that ends with
it, and a directory of its own for the namespaces it makes; nothing of the machine's own namespace
is read or changed."""

import asyncio
import os
import subprocess
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from tests.kernel.adapter_bed import (
    NOTHING,
    OVERLAY,
    SANDBOX,
    become,
    cluster_node,
    inside,
    sh,
    veth,
    with_kernel,
)
from weft.errors import OperationFailed
from weft.linux import netns
from weft.linux.kernel import RealKernel
from weft.network.diff import diff
from weft.network.kernel_state import (
    HOST,
    Bridge,
    BridgePort,
    ForwardingEntry,
    KernelState,
    Link,
    Namespace,
    Neighbour,
    Route,
    Rule,
    Table,
)
from weft.network.operations import (
    AddAddress,
    AddForwarding,
    AddLink,
    AddNamespace,
    AddNeighbour,
    AddRoute,
    AddRule,
    Operation,
    RemoveAddress,
    RemoveForwarding,
    RemoveLink,
    RemoveNamespace,
    RemoveNeighbour,
    RemoveRoute,
    RemoveRule,
    RemoveTable,
    ReplaceTable,
    SetLink,
    SetSysctl,
)

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def test_a_whole_node_reads_back_equal_and_can_be_applied_twice(tmp_path: Path) -> None:
    async def body(kernel: RealKernel) -> None:
        desired = cluster_node()
        operations = diff(await kernel.read(desired), desired)
        await kernel.apply(operations)
        actual = await kernel.read(desired)
        assert diff(actual, desired) == []
        sh("ip link show docker_gwbridge | grep 'mtu 1500'")
        for name, namespace in desired.namespaces.items():
            found = actual[name]
            for part in ("neighbours", "forwarding", "routes", "rules", "sysctls", "tables"):
                assert getattr(found, part) == getattr(namespace, part), (name, part)
            assert found.links.keys() == namespace.links.keys()
        await kernel.apply(operations)
        again = await kernel.read(desired)
        assert again == actual

    with_kernel(tmp_path, body)


def test_nothing_stays_and_all_can_be_made_again_at_once(tmp_path: Path) -> None:
    async def body(kernel: RealKernel) -> None:
        for _ in range(3):
            await become(kernel, cluster_node())
            await become(kernel, NOTHING)
            assert await kernel.read(NOTHING) == KernelState({HOST: Namespace(name=HOST)})
            assert list(tmp_path.iterdir()) == []
            assert "weft" not in sh("nft list tables")

    with_kernel(tmp_path, body)


def test_removing_works_one_by_one_and_twice(tmp_path: Path) -> None:
    async def body(kernel: RealKernel) -> None:
        desired = cluster_node()
        await become(kernel, desired)
        overlay, sandbox = desired[OVERLAY], desired[SANDBOX]
        removals: list[Operation] = [
            RemoveTable(SANDBOX, "ip", "ret"),
            RemoveTable(SANDBOX, "netdev", "ret"),
            *(RemoveRule(SANDBOX, rule) for rule in sandbox.rules),
            *(RemoveRoute(SANDBOX, route) for route in sandbox.routes),
            *(RemoveNeighbour(SANDBOX, neighbour) for neighbour in sandbox.neighbours),
            *(RemoveForwarding(OVERLAY, entry) for entry in overlay.forwarding),
            RemoveAddress(OVERLAY, "br0", IPv4Interface("10.0.0.1/24")),
            SetLink(namespace=OVERLAY, name="vxlan0", master="", up=False),
        ]
        await kernel.apply(removals)
        await kernel.apply(removals)
        actual = await kernel.read(NOTHING)
        found = actual[SANDBOX]
        assert (found.tables, found.rules, found.routes, found.neighbours) == (
            {},
            frozenset(),
            frozenset(),
            frozenset(),
        )
        assert (actual[OVERLAY].forwarding, actual[OVERLAY].links["br0"].addresses) == (
            frozenset(),
            frozenset(),
        )
        assert (actual[OVERLAY].links["vxlan0"].master, actual[OVERLAY].links["vxlan0"].up) == (
            None,
            False,
        )
        gone: list[Operation] = [
            RemoveLink(OVERLAY, "vxlan0"),
            RemoveLink(SANDBOX, "eth0"),
            RemoveNamespace(SANDBOX),
            RemoveNamespace(OVERLAY),
        ]
        await kernel.apply(gone)
        await kernel.apply([*gone, *removals[:-1]])
        assert (await kernel.read(NOTHING)).namespaces.keys() == {HOST}

    with_kernel(tmp_path, body)


def test_settings_of_a_link_change_in_place(tmp_path: Path) -> None:
    async def body(kernel: RealKernel) -> None:
        await become(kernel, cluster_node())
        index = inside(tmp_path, SANDBOX, "cat /sys/class/net/eth0/ifindex || true")
        await kernel.apply([
            SetLink(namespace=SANDBOX, name="eth0", mtu=1400, mac="02:42:0a:00:00:63"),
            SetLink(namespace=OVERLAY, name="veth1", port=BridgePort(flood=False)),
            AddNeighbour(OVERLAY, Neighbour("vxlan0", IPv4Address("10.0.0.77"), "02:42:0a:00:00:4e")),
            AddForwarding(OVERLAY, ForwardingEntry("vxlan0", "02:42:0a:00:00:4d", IPv4Address("192.0.2.99"))),
            AddRoute(SANDBOX, Route(destination=IPv4Network("0.0.0.0/0"), device="eth1", via=IPv4Address("172.18.0.9"))),
            SetSysctl(OVERLAY, "net.ipv4.ip_forward", "1"),
        ])  # fmt: skip
        actual = await kernel.read(cluster_node())
        eth0 = actual[SANDBOX].links["eth0"]
        assert (eth0.mtu, eth0.mac, actual[OVERLAY].links["veth1"].port.flood) == (
            1400,
            "02:42:0a:00:00:63",
            False,
        )
        assert actual[OVERLAY].neighbours == {
            Neighbour("vxlan0", IPv4Address("10.0.0.77"), "02:42:0a:00:00:4e")
        }
        assert {entry.vtep for entry in actual[OVERLAY].forwarding} == {
            IPv4Address("192.0.2.99"),
            None,
        }
        defaults = [r.via for r in actual[SANDBOX].routes if r.table == 254]
        assert defaults == [IPv4Address("172.18.0.9")]
        assert actual[OVERLAY].sysctls == {"net.ipv4.ip_forward": "1"}
        assert inside(tmp_path, SANDBOX, "cat /sys/class/net/eth0/ifindex || true") == index

    with_kernel(tmp_path, body)


def test_the_first_failure_is_named_and_the_rest_is_tried(tmp_path: Path) -> None:
    async def body(kernel: RealKernel) -> None:
        bad_route = Route(destination=IPv4Network("192.0.2.0/24"), device="nothing")
        with pytest.raises(OperationFailed) as caught:
            await kernel.apply([
                AddNamespace(OVERLAY),
                AddRoute(OVERLAY, bad_route),
                AddLink(OVERLAY, Link(name="br0", kind=Bridge(), mtu=1450)),
                SetSysctl(OVERLAY, "net.ipv4.no_such_thing", "1"),
                ReplaceTable(OVERLAY, Table("ip", "weft", "chain a { bogus }")),
                AddNamespace("not-ours"),
                AddRule("lb_012345678", Rule(priority=5, table=5)),
                SetLink(namespace=OVERLAY, name="br0", up=True),
            ])  # fmt: skip
        assert (
            str(caught.value)
            == f"cannot apply `ip -n {OVERLAY} route replace 192.0.2.0/24 dev nothing`: no device"
            " nothing"
        )
        notes = caught.value.__notes__
        assert [
            "no_such_thing" in notes[0],
            "syntax error" in notes[1],
            "not a name of ours" in notes[2],
        ] == [True] * 3
        assert "no network namespace lb_012345678" in notes[3]
        assert (await kernel.read(NOTHING))[OVERLAY].links["br0"].up

    with_kernel(tmp_path, body)


def test_a_link_of_another_kind_in_the_way_is_a_failure(tmp_path: Path) -> None:
    async def body(kernel: RealKernel) -> None:
        await kernel.apply([AddNamespace(OVERLAY), AddNamespace(SANDBOX)])
        inside(tmp_path, SANDBOX, "ip link add eth0 type bridge")
        ends = veth("veth1", SANDBOX, "eth0"), veth("eth0", OVERLAY, "veth1")
        with pytest.raises(OperationFailed, match="File exists"):
            await kernel.apply([AddLink(OVERLAY, *ends)])
        assert (await kernel.read(NOTHING))[OVERLAY].links == {}

    with_kernel(tmp_path, body)


def test_files_that_name_no_namespace_are_absent_and_replaced(tmp_path: Path) -> None:
    async def body(kernel: RealKernel) -> None:
        (tmp_path / OVERLAY).touch()
        (tmp_path / "default").touch()
        assert (await kernel.read(NOTHING)).namespaces.keys() == {HOST}
        await kernel.apply([AddNamespace(OVERLAY), AddNamespace(OVERLAY)])
        assert (await kernel.read(NOTHING)).namespaces.keys() == {HOST, OVERLAY}
        assert "UP" in inside(tmp_path, OVERLAY, "ip link show lo")
        assert (tmp_path / "default").exists()

    with_kernel(tmp_path, body)


def test_namespaces_that_others_made_are_neither_shown_nor_removed(tmp_path: Path) -> None:
    async def body(kernel: RealKernel) -> None:
        netns.create(tmp_path / SANDBOX, lambda: None)
        assert (await kernel.read(NOTHING)).namespaces.keys() == {HOST}
        for operation in (AddNamespace(SANDBOX), RemoveNamespace(SANDBOX)):
            with pytest.raises(
                OperationFailed, match="names a network namespace that somebody else made"
            ):
                await kernel.apply([operation])
        assert netns.is_live(tmp_path / SANDBOX)

    with_kernel(tmp_path, body)


def test_what_is_not_ours_in_the_host_is_neither_shown_nor_touched(tmp_path: Path) -> None:
    foreign = "ip link; ip route show table all | grep -v weft; ip rule; nft -s list ruleset"

    async def body(kernel: RealKernel) -> None:
        sh(
            "ip link add docker0 type bridge && ip addr add 172.17.0.1/16 dev docker0 && ip link"
            " set docker0 up"
        )
        sh("ip link add vetha type veth peer name vethb && ip route add 203.0.113.0/24 dev docker0")
        sh(
            "ip rule add priority 900 fwmark 0x5 table 7 && nft add table ip filter && nft add"
            " table ip weftlike"
        )
        before = sh(foreign)
        assert (await kernel.read(NOTHING))[HOST] == Namespace(name=HOST)
        await become(kernel, cluster_node())
        await become(kernel, NOTHING)
        assert sh(foreign) == before

    with_kernel(tmp_path, body)


@pytest.mark.parametrize(
    ("where", "command"),
    [
        (SANDBOX, "nft flush ruleset"),
        (SANDBOX, "nft delete table netdev ret"),
        (SANDBOX, "nft flush chain ip ret a"),
        (SANDBOX, "ip addr flush dev eth0"),
        (SANDBOX, "ip route del default"),
        (SANDBOX, "ip rule del priority 1000"),
        (SANDBOX, "ip neigh del 10.0.0.254 dev eth0"),
        (SANDBOX, "ip link del eth1"),
        (OVERLAY, "ip link del vxlan0"),
        (OVERLAY, "ip link del br0"),
        (OVERLAY, "ip link set veth1 down"),
        (OVERLAY, "bridge link set dev vxlan0 isolated off"),
        (OVERLAY, "bridge link set dev vxlan0 learning on"),
        (OVERLAY, "bridge fdb del 02:42:0a:00:00:4d dev vxlan0 dst 192.0.2.12 self"),
        (OVERLAY, "bridge fdb del 02:42:0a:00:00:02 dev veth1 master"),
        (OVERLAY, "ip neigh del 10.0.0.77 dev vxlan0"),
        (HOST, "nft flush ruleset"),
        (HOST, "ip rule del priority 900"),
        (HOST, "ip route flush table 5917"),
        (HOST, "ip link del docker_gwbridge"),
        (HOST, "ip link del wgw-0123456789"),
    ],
)
def test_what_others_undo_is_noticed_and_repaired(tmp_path: Path, where: str, command: str) -> None:
    async def body(kernel: RealKernel) -> None:
        desired = cluster_node()
        await become(kernel, desired)
        await kernel.changed()
        await kernel.read(desired)
        changes = asyncio.create_task(kernel.changed())
        await asyncio.sleep(0)
        await asyncio.to_thread(
            sh if where == HOST else lambda c: inside(tmp_path, where, c), command
        )
        assert where in await changes
        assert diff(await kernel.read(desired), desired) != []
        await become(kernel, desired)
        assert diff(await kernel.read(desired), desired) == []

    with_kernel(tmp_path, body)


@pytest.mark.parametrize(
    "command",
    [
        "umount {0} && rm {0}",
        "umount {0} && rm {0} && touch {0}",
        "unshare --mount --propagation private sh -c 'umount {0}; rm {0}'",
    ],
)
def test_a_namespace_that_vanished_is_noticed_and_made_again(tmp_path: Path, command: str) -> None:
    async def body(kernel: RealKernel) -> None:
        desired = cluster_node()
        await become(kernel, desired)
        await kernel.changed()
        changes = asyncio.create_task(kernel.changed())
        await asyncio.sleep(0)
        await asyncio.to_thread(sh, command.format(tmp_path / SANDBOX))
        assert SANDBOX in await changes
        assert SANDBOX not in (await kernel.read(desired)).namespaces
        # The kernel takes the old namespace apart some time later, and its veths with it.
        for _ in range(100):
            await become(kernel, desired)
            await asyncio.sleep(0.05)
            if diff(await kernel.read(desired), desired) == []:
                break
        assert diff(await kernel.read(desired), desired) == []

    with_kernel(tmp_path, body)


def test_traffic_and_foreign_rules_are_not_taken_for_changes(tmp_path: Path) -> None:
    async def body(kernel: RealKernel) -> None:
        desired = cluster_node()
        await become(kernel, desired)
        await kernel.changed()
        await kernel.read(desired)
        changes = asyncio.create_task(kernel.changed())
        await asyncio.sleep(0)
        await asyncio.to_thread(inside, tmp_path, SANDBOX, "ping -c 1 -W 2 10.0.0.1")
        await asyncio.to_thread(inside, tmp_path, SANDBOX, "ip neigh flush all")
        await asyncio.to_thread(
            sh,
            "ip link add docker0 type bridge; nft add table ip filter; ip rule add priority 5"
            " table 5",
        )
        await asyncio.to_thread(inside, tmp_path, OVERLAY, "ip addr add 192.0.2.1/32 dev br0")
        assert await changes == {OVERLAY}
        actual = await kernel.read(desired)
        assert actual[HOST].tables == desired[HOST].tables

    with_kernel(tmp_path, body)


def test_a_table_changed_by_others_has_an_empty_body_and_so_has_one_of_an_earlier_daemon(
    tmp_path: Path,
) -> None:
    async def body(kernel: RealKernel) -> None:
        desired = cluster_node()
        await become(kernel, desired)
        inside(tmp_path, SANDBOX, "nft add rule ip ret a counter")
        tables = (await kernel.read(desired))[SANDBOX].tables
        assert [tables["ip", "ret"].body, tables["netdev", "ret"].body] == [
            "",
            desired[SANDBOX].tables["netdev", "ret"].body,
        ]
        await become(kernel, desired)
        assert (await kernel.read(desired))[SANDBOX].tables == desired[SANDBOX].tables

        restarted = RealKernel(tmp_path)
        bodies = {table.body for table in (await restarted.read(desired))[SANDBOX].tables.values()}
        await become(restarted, desired)
        assert bodies == {""}
        assert diff(await restarted.read(desired), desired) == []
        await restarted.close()

    with_kernel(tmp_path, body)


def test_vxlan_carries_packets_between_hosts_from_the_hosts_namespaces(tmp_path: Path) -> None:
    """Two hosts with an underlay between them; each has an overlay namespace and a container, and
    knows the other's."""
    hosts = {"a": (tmp_path / "a", "192.0.2.11", 2), "b": (tmp_path / "b", "192.0.2.12", 3)}

    def build(directory: Path, vtep: str, own: int) -> str:
        async def main() -> None:
            kernel = RealKernel(directory)
            other = 5 - own
            mac = f"02:42:0a:00:00:{other:02x}"
            far_vtep = IPv4Address(f"192.0.2.{9 + other}")
            await become(kernel, cluster_node(vtep, own))
            await kernel.apply([
                AddNeighbour(OVERLAY, Neighbour("vxlan0", IPv4Address(f"10.0.0.{other}"), mac)),
                AddForwarding(OVERLAY, ForwardingEntry("vxlan0", mac, far_vtep)),
                AddAddress(OVERLAY, "br0", IPv4Interface("10.0.0.1/24")),
            ])  # fmt: skip
            await kernel.close()

        asyncio.run(main())
        return sh("ss -Hlun")

    def ping(directory: Path) -> Callable[[], str]:
        return lambda: inside(directory, SANDBOX, "ping -c 3 -i 0.2 -W 3 10.0.0.3")

    try:
        for name, (directory, _, _) in hosts.items():
            directory.mkdir()
            netns.create(tmp_path / f"{name}.net", lambda: sh("ip link set lo up"))
        with (tmp_path / "b.net").open() as far:
            netns.run_in(
                tmp_path / "a.net",
                lambda: subprocess.run(
                    "ip link add ens160 type veth peer name ens160 netns"
                    f" /proc/self/fd/{far.fileno()}",
                    shell=True,
                    check=True,
                    pass_fds=(far.fileno(),),
                ),
            )
        for name, (directory, vtep, own) in hosts.items():
            netns.run_in(
                tmp_path / f"{name}.net",
                partial(sh, f"ip addr add {vtep}/24 dev ens160; ip link set ens160 up"),
            )
            sockets = netns.run_in(tmp_path / f"{name}.net", partial(build, directory, vtep, own))
            assert ":4789" in sockets
        assert " 0% packet loss" in netns.run_in(tmp_path / "a.net", ping(hosts["a"][0]))
        assert inside(hosts["a"][0], OVERLAY, "ss -Hlun") == ""
    finally:
        for path in [*tmp_path.glob("*/*"), *tmp_path.glob("*.net")]:
            netns.remove(path)
