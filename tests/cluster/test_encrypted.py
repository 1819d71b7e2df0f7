"""Encrypted networks on a lab of three hosts: sealed on the wire, never in clear whatever is
broken, over rotations and restarts."""

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.conftest import Cluster, Names

NETWORK, SERVICE, PLAIN = "sealed", "sealed-web", "plain"
UNDERLAY = "ens160"


@pytest.fixture
def sealed(cluster: Cluster, names: Names) -> Cluster:
    """A service with one task on each host, on an encrypted network."""
    names(SERVICE), names(NETWORK)
    cluster.docker("node1", "network", "create", "-d", "overlay", "--opt", "encrypted", NETWORK)
    cluster.create(SERVICE, "-d", "--network", NETWORK)
    cluster.eventually(lambda: len(cluster.running(SERVICE)) == 3, 30)
    cluster.eventually(lambda: pings(cluster), 20)
    return cluster


def vni(cluster: Cluster, network: str = NETWORK) -> int:
    return int(
        cluster.inspect("node1", "network", "inspect", network)["Options"][
            "com.docker.network.driver.overlay.vxlanid_list"
        ]
    )


def address(cluster: Cluster, node: str, service: str = SERVICE, network: str = NETWORK) -> str:
    [container] = cluster.containers(node, service)
    networks = cluster.inspect(node, "inspect", container)["NetworkSettings"]["Networks"]
    return str(networks[network]["IPAddress"])


def ping(cluster: Cluster, source: str, target: str, count: str = "3", *more: str) -> bool:
    [container] = cluster.containers(source, SERVICE)
    argv = ("ping", "-q", "-c", count, "-i", "0.1", "-W", "1", *more, address(cluster, target))
    return " 0% packet loss" in cluster.inside(source, container, *argv, ok=False)


def pings(cluster: Cluster) -> bool:
    return ping(cluster, "node2", "node1") and ping(cluster, "node1", "node3")


@contextmanager
def captured(cluster: Cluster, expression: str, node: str = "node1") -> Iterator[list[str]]:
    """What tcpdump sees on the underlay of a host while the block runs."""
    argv = [
        *cluster.weft,
        "lab",
        "exec",
        node,
        "--",
        "tcpdump",
        "-n",
        "-l",
        "-e",
        "-v",
        "--immediate-mode",
        "-i",
        UNDERLAY,
        expression,
    ]
    lines: list[str] = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as dump:
        assert dump.stdout is not None
        assert dump.stderr is not None
        output = dump.stdout
        for line in dump.stderr:
            if "listening on" in line:
                break
        reader = threading.Thread(target=lambda: lines.extend(output))
        reader.start()
        try:
            yield lines
        finally:
            time.sleep(0.2)  # tcpdump prints what it has
            dump.terminate()
            reader.join()


def in_clear(cluster: Cluster) -> str:
    """A capture expression: VXLAN datagrams of the encrypted network (RFC 7348 section 5)."""
    return f"(udp port 4789 and udp[12:4] & 0xffffff00 = {vni(cluster) << 8:#x})"


def engine(cluster: Cluster, node: str) -> str:
    """The process that answers at the engine's control socket."""
    program = (
        "import socket, struct; s = socket.socket(socket.AF_UNIX);"
        " s.connect('/run/weft/esp.sock'); "
    )
    program += (
        "print(struct.unpack('3i', s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])"
    )
    return cluster.on(node, "python3", "-c", program).strip()


def test_it_is_sealed_on_the_wire_and_the_engine_is_named(sealed: Cluster) -> None:
    with captured(sealed, "esp or " + in_clear(sealed)) as lines:
        assert pings(sealed)
    assert any("ESP(spi=0x" in line for line in lines)
    assert not [line for line in lines if "VXLAN" in line]
    assert re.search(
        r"overlay-encryption\n +Profile: (userspace|kernel)\n", sealed.docker("node1", "info")
    )


def test_a_full_packet_is_sealed_into_one(sealed: Cluster) -> None:
    """1424 inside is 1500 outside: neither fragmented nor refused (-M do forbids it to be)."""
    with captured(sealed, "esp or ip[6:2] & 0x3fff != 0") as lines:
        assert ping(sealed, "node2", "node1", "3", "-M", "do", "-s", str(1424 - 28))
    lengths = {
        int(found[1])
        for line in lines
        if (found := re.search(r"proto ESP .*, length (\d+)\)", line))
    }
    assert max(lengths) == 1500
    assert not [line for line in lines if "flags [+]" in line]


def test_a_longer_icv_lowers_the_mtu(cluster: Cluster, names: Names) -> None:
    names("icv-web"), names("icv-net")
    options = ("--opt", "encrypted", "--opt", "com.weft.network.esp.icv=128")
    cluster.docker("node1", "network", "create", "-d", "overlay", *options, "icv-net")
    cluster.create("icv-web", "-d", "--network", "icv-net")
    cluster.eventually(lambda: len(cluster.running("icv-web")) == 3, 30)
    [container] = cluster.containers("node2", "icv-web")
    assert "mtu 1416" in cluster.inside("node2", container, "ip", "link", "show", "eth0")
    target = address(cluster, "node1", "icv-web", "icv-net")
    big = ("ping", "-q", "-c", "3", "-i", "0.1", "-M", "do", "-s", str(1416 - 28), target)
    cluster.eventually(
        lambda: " 0% packet loss" in cluster.inside("node2", container, *big, ok=False), 15
    )


@pytest.mark.parametrize("what", ["flush", "engine", "daemon"])
def test_never_in_clear(sealed: Cluster, healthy: Cluster, what: str) -> None:
    """Traffic goes on all the while from node2; what is broken is on node1 and node2. Afterwards it
    comes back by itself."""
    with (
        captured(sealed, in_clear(sealed), "node1") as one,
        captured(sealed, in_clear(sealed), "node2") as two,
    ):
        [container] = sealed.containers("node2", SERVICE)
        argv = ("ping", "-q", "-c", "40", "-i", "0.1", "-W", "1", address(sealed, "node1"))
        pinging = threading.Thread(
            target=lambda: sealed.inside("node2", container, *argv, ok=False)
        )
        pinging.start()
        time.sleep(0.5)
        for node in ("node1", "node2"):
            if what == "flush":
                sealed.on(node, "nft", "flush", "ruleset")
            elif what == "engine":
                sealed.on(node, "kill", "-9", engine(sealed, node))
            else:
                sealed.lab("kill", node)
        pinging.join()
        if what == "daemon":
            assert pings_without_daemon(sealed, container, argv[-1]), (
                "the engine must go on without the daemon"
            )
            for node in ("node1", "node2"):
                sealed.lab("restart", node)
        sealed.eventually(lambda: pings(sealed), 20)
    assert not [line for line in one + two if "VXLAN" in line]


def pings_without_daemon(cluster: Cluster, container: str, target: str) -> bool:
    name = "nsenter -n -t $(pidof -s nginx) ping -q -c 3 -i 0.1 -W 1 " + target
    return " 0% packet loss" in cluster.on("node2", "sh", "-c", name, ok=False)


FORGERY = """
import socket, struct
def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data)); total = (total >> 16) + (total & 65535)
    return ~(total + (total >> 16)) & 65535
icmp = struct.pack('!BBHHH', 8, 0, 0, 7, 7); icmp = icmp[:2] + struct.pack('!H', checksum(icmp)) + icmp[4:]
addresses = socket.inet_aton('{source}') + socket.inet_aton('{target}')
ip = struct.pack('!BBHHHBBH', 69, 0, 28, 0, 0, 64, 1, 0) + addresses
ip = ip[:10] + struct.pack('!H', checksum(ip)) + ip[12:]
frame = bytes.fromhex('{mac}') + bytes.fromhex('02420a0a0a4d0800') + ip + icmp
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(20): s.sendto(struct.pack('!II', 1 << 27, {vni} << 8) + frame, ('{node}', 4789))
"""


def test_what_comes_in_clear_is_not_taken(sealed: Cluster) -> None:
    """A forged datagram with the right VNI and the right inner addresses, from outside: the task
    never sees it."""
    target = address(sealed, "node1")
    inner_mac = "0242" + "".join(f"{int(o):02x}" for o in target.split("."))
    program = FORGERY.format(
        mac=inner_mac,
        target=target,
        source=f"{target[: target.rindex('.')]}.77",
        vni=vni(sealed),
        node=sealed.nodes["node1"],
    )
    [container] = sealed.containers("node1", SERVICE)
    before = sealed.inside("node1", container, "cat", "/proc/net/dev")
    sealed.on("client", "python3", "-c", program)
    time.sleep(0.3)
    after = sealed.inside("node1", container, "cat", "/proc/net/dev")
    received = [
        next(int(line.split()[2]) for line in text.splitlines() if "eth0" in line)
        for text in (before, after)
    ]
    assert received[1] - received[0] < 5


def test_rotation_loses_nothing(sealed: Cluster) -> None:
    """Keys change under a steady ping between every two hosts; each is known before it is used."""
    [container] = sealed.containers("node2", SERVICE)
    argv = ("ping", "-q", "-c", "120", "-i", "0.1", "-W", "1", address(sealed, "node3"))
    said: list[str] = []
    pinging = threading.Thread(
        target=lambda: said.append(sealed.inside("node2", container, *argv, ok=False))
    )
    pinging.start()
    environment = ("env", "DOCKER_HOST=unix:///run/weft/lab/node1/docker.sock")

    def rotate() -> bool:
        return "key" in sealed.run(*environment, *sealed.weft, "keys", "rotate").stdout

    sealed.eventually(rotate, 15)
    tags = [
        line.split()[1]
        for line in sealed.run(*environment, *sealed.weft, "keys").stdout.splitlines()
        if line.startswith("key ")
    ]
    assert len(tags) >= 2
    pinging.join()
    assert " 0% packet loss" in said[0], said


def test_keys_are_for_those_who_need_them_and_for_root_only(sealed: Cluster) -> None:
    for node in ("node1", "node2"):
        modes = sealed.on(node, "find", "/var/lib/weft/swarm", "-type", "f", "-perm", "/077")
        assert modes.strip() == ""
    log = sealed.on("node1", "sh", "-c", "cat /run/weft/esp.log 2>/dev/null; true")
    assert "secret" not in log.lower()


def test_the_engine_is_gone_with_the_last_network(cluster: Cluster, names: Names) -> None:
    names("gone-web"), names("gone-net")
    cluster.docker("node1", "network", "create", "-d", "overlay", "--opt", "encrypted", "gone-net")
    cluster.create("gone-web", "-d", "--network", "gone-net")
    cluster.eventually(lambda: len(cluster.running("gone-web")) == 3, 30)
    assert "esp_sbox" in cluster.on("node1", "ls", "/run/docker/netns")
    cluster.docker("node1", "service", "rm", "gone-web")
    cluster.eventually(lambda: "esp_sbox" not in cluster.on("node1", "ls", "/run/docker/netns"), 15)
    cluster.eventually(
        lambda: not cluster.on("node1", "find", "/run/weft", "-name", "esp.sock").strip(),
        15,
        "engine ended",
    )
