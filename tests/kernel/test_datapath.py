"""The packet path on the real kernel: three hosts as namespaces, a client outside, servers in
sandboxes.

Each host runs the real plan, diff and kernel adapter in its own namespace (`datapath_host.py`).
Sockets are opened in a namespace and used from here, so a check is a few lines. Everything is made
under a name of its own and removed at the end.
"""

import asyncio
import contextlib
import errno
import functools
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.kernel.datapath_bed import (
    CLIENT,
    HOSTS,
    TIMEOUT,
    Bed,
    ask,
    ask_udp,
    bound,
    connect,
    echoes,
    hello,
    own_address,
    run,
    tasks,
)
from tests.support.swarms import Swarm
from weft.linux import netns
from weft.linux.netlink.attributes import mac_bytes
from weft.model.addresses import MacAddress, mac_for
from weft.model.ids import NetworkId, TaskId
from weft.model.service import PublishedPort

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
WEB, ECHO, DEAD, CLOSED, DIRECT = 8080, 9001, 8081, 8082, 9090


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    swarm = Swarm()
    with contextlib.ExitStack() as stack:
        bed = Bed(swarm, stack)
        overlay = swarm.network("mynet", "10.10.10.0/24")
        wide = swarm.network("wide", "10.20.0.0/24", "10.20.1.0/24")
        inner = swarm.network("inner", "10.30.0.0/24", internal=True)
        ports = [
            PublishedPort(target=80, published=WEB),
            PublishedPort(target=53, published=ECHO, protocol="udp"),
            PublishedPort(target=81, published=CLOSED),
        ]
        web = swarm.service("webapp", overlay, ports=ports, on=[1, 2, 3])
        direct = [
            PublishedPort(target=80, published=DIRECT, mode="host"),
            PublishedPort(target=53, published=DIRECT, protocol="udp", mode="host"),
        ]
        host_mode = swarm.service("direct", overlay, ports=direct, on=[2])
        silent = [
            PublishedPort(target=80, published=DEAD),
            PublishedPort(target=5353, published=5353, protocol="udp"),
        ]
        (dead,) = swarm.service("dead", overlay, ports=silent, on=[3])
        swarm.set_serving(dead, False)
        spanning = swarm.service("spanning", wide, on=[1, 2])
        hidden = swarm.service("hidden", inner, on=[1, 2])
        bed.apply()
        for task in [*web, *host_mode, dead, *spanning, *hidden]:
            bed.servers.add(bed.sandbox(task), task, tcp=[80], udp=[53])
        yield bed


# --- the mesh


@pytest.mark.parametrize("host", HOSTS)
def test_the_client_address_arrives_at_tasks_on_every_host(bed: Bed, host: str) -> None:
    seen = [ask(bed.path("client"), host, WEB) for _ in range(6)]
    assert {s["peer"] for s in seen} == {CLIENT}
    assert Counter(s["name"] for s in seen) == dict.fromkeys(tasks(bed, "webapp"), 2)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("size", [10, 1400, 1472, 8000, 20000])
def test_udp_through_the_mesh_with_fragments(bed: Bed, host: str, size: int) -> None:
    seen = [ask_udp(bed.path("client"), host, ECHO, size) for _ in range(3)]
    assert {s["peer"] for s in seen} == {CLIENT}
    assert {s["name"] for s in seen} == set(tasks(bed, "webapp"))
    assert {s["length"] for s in seen} == {size}


@pytest.mark.parametrize("address", ["127.0.0.1", "10.59.72.11", "172.18.0.1"])
def test_a_process_of_the_host_itself(bed: Bed, address: str) -> None:
    seen = [ask(bed.path("node1"), address, WEB) for _ in range(6)]
    assert {s["peer"] for s in seen} == {"10.59.72.11"}
    assert {s["name"] for s in seen} == set(tasks(bed, "webapp"))
    assert {ask_udp(bed.path("node1"), address, ECHO)["peer"] for _ in range(3)} == {"10.59.72.11"}


def test_a_host_asks_another(bed: Bed) -> None:
    assert {ask(bed.path("node1"), HOSTS[2], WEB)["peer"] for _ in range(3)} == {"10.59.72.11"}


def test_hairpin_by_own_and_other_hosts(bed: Bed) -> None:
    task = tasks(bed, "webapp")[0]
    for host in [*HOSTS, "172.18.0.1"]:
        seen = [ask(bed.sandbox(task), host, WEB) for _ in range(6)]
        assert {s["peer"] for s in seen} == {HOSTS[0]}, host
        assert {s["name"] for s in seen} == set(tasks(bed, "webapp"))
        assert len({ask_udp(bed.sandbox(task), host, ECHO)["name"] for _ in range(3)}) == 3


def test_one_client_port_by_three_hosts_at_once(bed: Bed) -> None:
    """Connections that meet at one task have the same addresses and ports there."""
    met = 0
    for round in range(12):
        with contextlib.ExitStack() as stack:
            sockets = [
                stack.enter_context(connect(bed.path("client"), h, WEB, (CLIENT, 20000 + round)))
                for h in HOSTS
            ]
            seen = [hello(sock) for sock in sockets]
            assert {s["peer"] for s in seen} == {CLIENT}
            assert all(echoes(sock) for sock in sockets)
        met += len({s["name"] for s in seen}) < len(seen)
        # The hosts' circles turn alike: now one is a step ahead.
        ask(bed.path("client"), HOSTS[round % 2], WEB)
    assert met


def test_a_client_by_a_router_with_an_address_of_the_services_own_overlay(bed: Bed) -> None:
    """The task answers to it by the way that its request came, not into the overlay."""
    odd = "10.10.10.200"
    bed.inside("client", "ip", "address", "add", f"{odd}/32", "dev", "ens160")
    try:
        for host in ("node1", "node2", "node3"):
            bed.inside(host, "ip", "route", "add", f"{odd}/32", "via", CLIENT)
        for host in HOSTS:
            seen = [ask_udp(bed.path("client"), host, ECHO, source=(odd, 0)) for _ in range(3)]
            assert {s["peer"] for s in seen} == {odd}
            assert {s["name"] for s in seen} == set(tasks(bed, "webapp"))
            assert ask(bed.path("client"), host, WEB, (odd, 0))["peer"] == odd
    finally:
        bed.inside("client", "ip", "address", "del", f"{odd}/32", "dev", "ens160")


def test_one_udp_client_port_by_three_hosts_at_once(bed: Bed) -> None:
    met = 0
    for round in range(12):
        seen = [
            ask_udp(bed.path("client"), host, ECHO, source=(CLIENT, 21000 + round))
            for host in HOSTS
        ]
        assert {s["peer"] for s in seen} == {CLIENT}
        met += len({s["name"] for s in seen}) < len(seen)
        ask_udp(bed.path("client"), HOSTS[round % 2], ECHO)
    assert met


def test_a_client_in_the_ingress_subnet(bed: Bed) -> None:
    with contextlib.ExitStack() as stack:
        run("ip", "-n", bed.name("client"), "address", "add", "10.0.0.77/32", "dev", "ens160")
        stack.callback(
            run,
            "ip",
            "-n",
            bed.name("client"),
            "address",
            "delete",
            "10.0.0.77/32",
            "dev",
            "ens160",
        )
        run("ip", "-n", bed.name("node1"), "route", "add", "10.0.0.77/32", "dev", "ens160")
        stack.callback(
            run, "ip", "-n", bed.name("node1"), "route", "delete", "10.0.0.77/32", "dev", "ens160"
        )
        assert {
            ask(bed.path("client"), HOSTS[0], WEB, ("10.0.0.77", 0))["peer"] for _ in range(3)
        } == {"10.0.0.77"}


@pytest.mark.parametrize("setting", ["1", "2", "0"])
def test_any_reverse_path_filter_on_the_host(bed: Bed, setting: str) -> None:
    keys = [
        f"net.ipv4.conf.{device}.rp_filter"
        for device in ("all", "ens160", "ing0", "docker_gwbridge")
    ]
    before = [bed.inside("node1", "sysctl", "-n", key).strip() for key in keys]
    try:
        for key in keys:
            bed.inside("node1", "sysctl", "-qw", f"{key}={setting}")
        assert {ask(bed.path("client"), HOSTS[0], WEB)["peer"] for _ in range(3)} == {CLIENT}
        assert {ask(bed.path("node1"), "127.0.0.1", WEB)["peer"] for _ in range(3)} == {HOSTS[0]}
        assert {ask(bed.path("node1"), HOSTS[0], WEB)["peer"] for _ in range(3)} == {HOSTS[0]}
        assert {
            ask(bed.sandbox(tasks(bed, "webapp")[0]), HOSTS[0], WEB)["peer"] for _ in range(3)
        } == {HOSTS[0]}
        assert {ask_udp(bed.path("client"), HOSTS[0], ECHO)["peer"] for _ in range(3)} == {CLIENT}
    finally:
        for key, value in zip(keys, before, strict=True):
            bed.inside("node1", "sysctl", "-qw", f"{key}={value}")


@pytest.mark.parametrize("port", [CLOSED, DEAD])
@pytest.mark.parametrize("where", ["client", "node1", "task"])
def test_what_nobody_serves_is_refused(bed: Bed, where: str, port: int) -> None:
    path = bed.sandbox(tasks(bed, "webapp")[0]) if where == "task" else bed.path(where)
    for host in HOSTS:
        with pytest.raises(ConnectionRefusedError):
            ask(path, host, port)
    if where == "node1":
        with pytest.raises(ConnectionRefusedError):
            ask(path, "127.0.0.1", port)


def test_a_local_listener_does_not_get_published_ports(bed: Bed) -> None:
    with netns.run_in(
        bed.path("node1"), functools.partial(bound, socket.SOCK_STREAM, "0.0.0.0", DEAD)
    ):
        with pytest.raises(ConnectionRefusedError):
            ask(bed.path("client"), HOSTS[0], DEAD)


def test_established_connections_outlive_a_change_of_tasks(bed: Bed) -> None:
    leaving, *staying = tasks(bed, "webapp")
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(connect(bed.path("client"), host, WEB))
            for host in HOSTS
            for _ in range(6)
        ]
        for sock in sockets:
            hello(sock)
        bed.swarm.set_serving(leaving, False)
        try:
            bed.apply()
            assert all(echoes(sock) for sock in sockets)
            seen = {ask(bed.path("client"), host, WEB)["name"] for host in HOSTS for _ in range(6)}
            assert seen == set(staying)
        finally:
            bed.swarm.set_serving(leaving, True)
            bed.apply()
        assert all(echoes(sock) for sock in sockets)


def test_other_containers_cannot_get_in_by_the_ingress_network(bed: Bed) -> None:
    first, second, _ = tasks(bed, "webapp")
    inside = str(bed.swarm.tasks[second].attachments[0].address.ip)
    with pytest.raises(TimeoutError):
        connect(bed.sandbox(first), inside, 80)


def test_path_mtu_towards_the_client(bed: Bed) -> None:
    """A narrow link between host and client: the container must hear of it."""
    narrow = [f"{CLIENT}/32", "dev", "ens160", "mtu", "1300"]
    run("ip", "-n", bed.name("node1"), "route", "add", *narrow)
    try:
        for _ in range(3):
            with connect(bed.path("client"), HOSTS[0], WEB) as sock:
                hello(sock)
                assert echoes(sock, 200_000)
    finally:
        run("ip", "-n", bed.name("node1"), "route", "delete", *narrow[:3])
        for task in tasks(bed, "webapp"):
            bed.inside(bed.sandbox(task), "ip", "route", "flush", "cache")


# --- services


def virtual(bed: Bed, network: str, service: str) -> str:
    views = {d.name: id for id, d in bed.swarm.definitions.items()}
    found = next(s for s in bed.swarm.services[views[network]].values() if s.name == service)
    return str(found.virtual_address)


def test_a_virtual_address_keeps_the_caller_and_reaches_all(bed: Bed) -> None:
    address = virtual(bed, "mynet", "webapp")
    for task in [*tasks(bed, "webapp"), *tasks(bed, "direct")]:
        seen = [ask(bed.sandbox(task), address, 80) for _ in range(6)]
        assert Counter(s["name"] for s in seen) == dict.fromkeys(tasks(bed, "webapp"), 2)
        assert {s["peer"] for s in seen} == {own_address(bed, task, "mynet")}
        answers = [ask_udp(bed.sandbox(task), address, 53, 1400) for _ in range(3)]
        assert {s["name"] for s in answers} == set(tasks(bed, "webapp"))
        assert {s["peer"] for s in answers} == {own_address(bed, task, "mynet")}
        bed.inside(bed.sandbox(task), "ping", "-c3", "-i0.2", "-W2", address)


def test_a_virtual_address_in_the_balancers_namespace(bed: Bed) -> None:
    address = virtual(bed, "mynet", "webapp")
    space = next(bed.directory(1).glob("lb_mynet*"))
    assert {ask(space, address, 80)["name"] for _ in range(3)} == set(tasks(bed, "webapp"))
    bed.inside(space, "ping", "-c1", "-W2", address)


def test_a_container_that_is_about_to_stop_resets_nobody(bed: Bed) -> None:
    """Not even where its program no longer listens: the client sends its SYN again, to another."""
    client = bed.path("client")
    with connect(client, HOSTS[0], WEB) as standing:
        hello(standing)
        bed.swarm.closed |= set(tasks(bed, "webapp"))
        bed.apply()
        try:
            for port in (WEB, CLOSED):
                with netns.run_in(client, socket.socket) as sock:
                    sock.settimeout(0.2)
                    assert sock.connect_ex((HOSTS[0], port)) == errno.EAGAIN
            assert echoes(standing)
        finally:
            bed.swarm.closed.clear()
            bed.apply()
    with pytest.raises(ConnectionRefusedError):
        connect(client, HOSTS[0], CLOSED)


def test_a_container_that_is_about_to_stop_refuses_no_container(bed: Bed) -> None:
    """A caller whose host is behind asks a virtual address, or a container that it knows: a program
    that listens answers, and where none does any more, the SYN gets no answer."""
    caller, virtual_address = tasks(bed, "direct")[0], virtual(bed, "mynet", "webapp")
    own = own_address(bed, tasks(bed, "webapp")[2], "mynet")
    with connect(bed.sandbox(caller), own, 80) as standing:
        hello(standing)
        bed.swarm.closed |= set(tasks(bed, "webapp"))
        bed.apply()
        try:
            assert ask(bed.sandbox(caller), virtual_address, 80)["name"] in tasks(bed, "webapp")
            for address in (virtual_address, own):
                with netns.run_in(bed.sandbox(caller), socket.socket) as sock:
                    sock.settimeout(0.2)
                    assert sock.connect_ex((address, 81)) == errno.EAGAIN
            assert echoes(standing)
        finally:
            bed.swarm.closed.clear()
            bed.apply()
        assert echoes(standing)
    with pytest.raises(ConnectionRefusedError):
        connect(bed.sandbox(caller), virtual_address, 81)


def test_a_virtual_address_without_tasks_is_refused(bed: Bed) -> None:
    address = virtual(bed, "mynet", "dead")
    with pytest.raises(ConnectionRefusedError):
        ask(bed.sandbox(tasks(bed, "webapp")[1]), address, 80)
    with pytest.raises(OSError) as caught:
        ask_udp(bed.sandbox(tasks(bed, "webapp")[1]), address, 53)
    assert caught.value.errno in (errno.EHOSTUNREACH, errno.EPERM, errno.ECONNREFUSED)


def test_containers_reach_each_other_directly(bed: Bed) -> None:
    first, second, third = tasks(bed, "webapp")
    for other in (second, third):
        address = own_address(bed, other, "mynet")
        assert ask(bed.sandbox(first), address, 80)["peer"] == own_address(bed, first, "mynet")
        assert ask_udp(bed.sandbox(first), address, 53)["peer"] == own_address(bed, first, "mynet")
        bed.inside(bed.sandbox(first), "ping", "-c1", "-W2", "-M", "do", "-s", "1422", address)
        assert "too long" in bed.inside(
            bed.sandbox(first),
            "sh",
            "-c",
            f"ping -c1 -W2 -M do -s 1423 {address} 2>&1",
            check=False,
        )


def test_segments_of_one_network_are_routed(bed: Bed) -> None:
    first, second = tasks(bed, "spanning")
    segments = bed.swarm.definitions[bed.swarm.tasks[first].attachments[0].network].segments
    assert IPv4Address(own_address(bed, first, "wide")) in segments[1].subnet
    assert ask(bed.sandbox(first), own_address(bed, second, "wide"), 80)["peer"] == own_address(
        bed, first, "wide"
    )
    assert {
        ask(bed.sandbox(second), virtual(bed, "wide", "spanning"), 80)["name"] for _ in range(2)
    } == {first, second}


# --- the way out


def test_outgoing_traffic_leaves_with_the_hosts_address(bed: Bed) -> None:
    bed.servers.add(bed.path("client"), "outside", tcp=[7000], udp=[7000])
    for host, task in zip(HOSTS, tasks(bed, "webapp"), strict=True):
        assert ask(bed.sandbox(task), CLIENT, 7000)["peer"] == host
        assert ask_udp(bed.sandbox(task), CLIENT, 7000)["peer"] == host
        assert ask_udp(bed.sandbox(task), CLIENT, 7000, source=("0.0.0.0", 54))["peer"] == host


def test_outgoing_udp_from_a_published_target_port(bed: Bed) -> None:
    """A DNS server that forwards from port 53."""
    task = tasks(bed, "dead")[0]
    bed.servers.add(bed.path("client"), "outside", tcp=[], udp=[7001])
    answer = ask_udp(bed.sandbox(task), CLIENT, 7001, source=("0.0.0.0", 5353))
    assert answer["peer"] == HOSTS[2]


@pytest.fixture(params=["0", "1"])
def bridged(bed: Bed, request: pytest.FixtureRequest) -> Iterator[None]:
    """Whether bridged frames of host 2 meet netfilter: 1 is the kernel's default where br_netfilter
    is loaded, as it is where Docker ran. The check of reverse paths is strict."""
    key = "net.bridge.bridge-nf-call-iptables"
    before = bed.inside("node2", "sysctl", "-n", key, check=False).strip()
    bed.inside("node2", "sysctl", "-qw", f"{key}={request.param}", check=False)
    bed.inside("node2", "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
    yield
    bed.inside("node2", "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")
    bed.inside("node2", "sysctl", "-qw", f"{key}={before}", check=False)


@pytest.mark.usefixtures("bridged")
def test_containers_cannot_meet_on_the_gateway_bridge(bed: Bed) -> None:
    other, first = tasks(bed, "spanning")[1], tasks(bed, "webapp")[1]
    address = str(bed.swarm.sandbox(other).gateway.ip)
    with pytest.raises(OSError) as caught:
        connect(bed.sandbox(first), address, 80)
    assert caught.value.errno in (None, errno.EHOSTUNREACH)
    with pytest.raises(TimeoutError):
        ask_udp(bed.sandbox(first), address, 53)


def test_a_host_mode_port(bed: Bed) -> None:
    (task,) = tasks(bed, "direct")
    assert ask(bed.path("client"), HOSTS[1], DIRECT) | {"port": 0} == {
        "name": task,
        "peer": CLIENT,
        "port": 0,
    }
    assert ask(bed.path("node2"), "127.0.0.1", DIRECT)["name"] == task
    assert ask(bed.path("node2"), HOSTS[1], DIRECT)["name"] == task
    with pytest.raises(ConnectionRefusedError):
        ask(bed.path("client"), HOSTS[0], DIRECT)


@pytest.mark.usefixtures("bridged")
@pytest.mark.parametrize("address", [HOSTS[1], "172.18.0.1", "10.99.99.1"])
def test_containers_reach_ports_of_their_own_host(bed: Bed, address: str) -> None:
    """By any address of the host; the container itself, too; and in the mesh."""
    (task,) = tasks(bed, "direct")
    bed.inside("node2", "ip", "address", "replace", "10.99.99.1/32", "dev", "lo")
    for asker in (tasks(bed, "webapp")[1], tasks(bed, "spanning")[1], task):
        sandbox = bed.sandbox(asker)
        for found in (ask(sandbox, address, DIRECT), ask_udp(sandbox, address, DIRECT, 8000)):
            assert (found["name"], found["peer"]) == (task, HOSTS[1])
        assert ask(sandbox, address, WEB)["peer"] == HOSTS[1]
        assert ask_udp(sandbox, address, ECHO)["peer"] == HOSTS[1]


def test_an_internal_network_has_no_way_out(bed: Bed) -> None:
    first, second = tasks(bed, "hidden")
    assert ask(bed.sandbox(first), own_address(bed, second, "inner"), 80)["name"] == second
    with pytest.raises(OSError) as caught:
        connect(bed.sandbox(first), CLIENT, 7000)
    assert caught.value.errno == errno.ENETUNREACH
    assert "eth1" not in bed.inside(bed.sandbox(first), "ip", "link")


# --- the resolver's address, and repair


def test_the_resolver_listens_elsewhere(bed: Bed) -> None:
    path = bed.sandbox(tasks(bed, "webapp")[0])
    datagrams, stream = asyncio.run(netns.open_udp_tcp(path, IPv4Address("127.0.0.11"), 61053))
    with (
        datagrams,
        stream,
        netns.run_in(path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock,
    ):
        sock.settimeout(TIMEOUT)
        sock.connect(("127.0.0.11", 53))
        sock.send(b"who")
        datagrams.setblocking(True)
        datagrams.settimeout(TIMEOUT)
        data, peer = datagrams.recvfrom(100)
        datagrams.sendto(data[::-1], peer)
        assert sock.recv(100) == b"ohw"
        connect(path, "127.0.0.11", 53).close()


def test_a_task_is_found_where_another_host_had_its_address_before(bed: Bed) -> None:
    """The bridge has seen the MAC in a frame from that other host, and would not forget it for five
    minutes."""
    task = next(id for id in tasks(bed, "webapp") if bed.swarm.tasks[id].node == bed.swarm.nodes[0])
    there = bed.swarm.assignment(1).networks[bed.swarm.ingress].load_balancer(bed.swarm.nodes[0])
    here, other = (next(bed.directory(host).glob("1-ingress*")) for host in (1, 2))
    assert there is not None
    before = received(bed, here)
    send_frame(other, "vxlan0", there.mac, mac_for(address_of(bed, task, bed.swarm.ingress)))
    deadline = time.monotonic() + TIMEOUT
    while received(bed, here) == before:
        assert time.monotonic() < deadline, "the frame did not arrive"
    assert {ask(bed.path("client"), HOSTS[0], WEB)["name"] for _ in range(6)} == set(
        tasks(bed, "webapp")
    )


def test_no_container_takes_the_place_of_another(bed: Bed) -> None:
    """It may send what it likes: containers have CAP_NET_RAW."""
    network = next(
        id for id, definition in bed.swarm.definitions.items() if definition.name == "mynet"
    )
    liar = next(id for id in tasks(bed, "webapp") if bed.swarm.tasks[id].node == bed.swarm.nodes[0])
    (victim,) = tasks(bed, "direct")
    own, mac = mac_for(address_of(bed, liar, network)), mac_for(address_of(bed, victim, network))
    devices = json.loads(bed.inside(bed.sandbox(liar), "ip", "-j", "link", "show"))
    [device] = [entry["ifname"] for entry in devices if entry["address"] == own]
    send_frame(bed.sandbox(liar), device, "ff:ff:ff:ff:ff:ff", mac)
    balancer = next(bed.directory(1).glob("lb_mynet*"))
    assert ask(balancer, str(address_of(bed, victim, network)), 80)["name"] == victim


def address_of(bed: Bed, task: TaskId, network: NetworkId) -> IPv4Address:
    [address] = [a.address.ip for a in bed.swarm.tasks[task].attachments if a.network == network]
    return address


def send_frame(path: Path, device: str, destination: MacAddress, source: MacAddress) -> None:
    with netns.run_in(
        path, functools.partial(socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
    ) as wire:
        wire.bind((device, 0))
        wire.send(mac_bytes(destination) + mac_bytes(source) + b"\x88\xb5" + bytes(50))


def received(bed: Bed, overlay: Path) -> int:
    """Frames from other hosts."""
    [link] = json.loads(bed.inside(overlay, "ip", "-s", "-j", "link", "show", "vxlan0"))
    return int(link["stats64"]["rx"]["packets"])


def test_damage_is_repaired(bed: Bed) -> None:
    overlay = next(bed.directory(1).glob("1-mynet*"))
    bed.inside(overlay, "ip", "link", "delete", "vxlan0")
    bed.inside("node1", "nft", "flush", "ruleset")
    bed.inside("node1", "ip", "link", "delete", "ing0")
    bed.inside(bed.sandbox(tasks(bed, "webapp")[0]), "ip", "link", "delete", "eth2")
    done = bed.apply()
    assert done[0]
    assert done[1:] == [[], []]
    assert bed.apply() == [[], [], []]
    test_a_virtual_address_keeps_the_caller_and_reaches_all(bed)
    test_the_client_address_arrives_at_tasks_on_every_host(bed, HOSTS[0])
