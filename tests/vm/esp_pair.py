"""A host of two networks in the guest, one encrypted and one plain, and its peer in a namespace of
this machine, with the userspace engine; the associations both have, and the wire between them."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TypeVar

from tests.vm.virtual_machine import Guest
from weft.linux import netns
from weft.model.assignment import Assignment, NetworkDefinition, NetworkView
from weft.model.codec import encode
from weft.model.encryption import Association, DataKey, IcvBits, Protection
from weft.model.ids import NetworkId, NodeId
from weft.model.network import Segment
from weft.model.sandbox import NodeFacts
from weft.network.encryption import isolation, marked_frames
from weft.network.kernel_state import Namespace

PEER_PROGRAM = Path(__file__).parents[1] / "kernel/esp_host.py"
GUEST, PEER = IPv4Address("10.59.74.2"), IPv4Address("10.59.74.1")
SEALED, PLAIN, PORT = 4097, 4098, 4789
MARK = 0xD0C4E3
"""By which the peer steers datagrams to its engine."""
INNER = {SEALED: ("10.98.7.2", "10.98.7.1"), PLAIN: ("10.98.8.2", "10.98.8.1")}
"""Addresses inside the networks: the guest's and the peer's."""
MTU = {64: 1424, 128: 1416}
T = TypeVar("T")


def sh(command: str, input: str | None = None) -> str:
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=False, input=input
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def wait_for(condition: Callable[[], T], seconds: float = 20.0) -> T:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(0.02)
    return found


def overlay(
    vni: int,
    here: str,
    there: str,
    mac: str,
    other_mac: str,
    inside: str,
    run: Callable[[str], str],
    local: IPv4Address,
    remote: IPv4Address,
    mtu: int,
) -> None:
    """A VXLAN device of the host `local`, moved to the namespace `inside`, that knows its only
    peer."""
    device = f"vx{vni}"
    run(f"ip link add {device} type vxlan id {vni} local {local} dstport {PORT} nolearning")
    run(f"ip link set {device} netns {inside}")
    run(f"ip -n {inside} link set {device} address {mac} mtu {mtu} up")
    run(f"ip -n {inside} addr add {here}/24 dev {device}")
    run(f"ip -n {inside} neigh add {there} lladdr {other_mac} dev {device} nud permanent")
    run(f"bridge -n {inside} fdb add {other_mac} dev {device} dst {remote} self permanent")


class Peer:
    """The namespace at the other end of the wire, with the userspace engine."""

    def __init__(self, directory: Path) -> None:
        self.name, self.inside = f"weftvm-{os.getpid()}", f"weftvm-{os.getpid()}-in"
        self.directory = directory
        self.process: subprocess.Popen[str] | None = None
        for namespace in (self.name, self.inside):
            sh(f"ip netns add {namespace}")
            sh(
                f"ip netns exec {namespace} sysctl -qw net.ipv6.conf.all.disable_ipv6=1"
                " net.ipv6.conf.default.disable_ipv6=1"
            )
            sh(f"ip -n {namespace} link set lo up")
        sh(f"ip -n {self.name} tuntap add tap0 mode tap && ip -n {self.name} link set tap0 up")
        sh(f"ip -n {self.name} addr add {PEER}/24 dev tap0")

    def sh(self, command: str, inside: bool = False, input: str | None = None) -> str:
        return sh(f"ip netns exec {self.inside if inside else self.name} {command}", input)

    def ask(self, *words: object) -> object:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        result, error = json.loads(self.process.stdout.readline())
        assert not error, error
        return result

    def apply(self, protection: Protection | None) -> None:
        self.ask(
            "apply", None if protection is None else base64.b64encode(encode(protection)).decode()
        )

    def start(self) -> None:
        argv: list[str | Path] = [
            "ip",
            "netns",
            "exec",
            self.name,
            sys.executable,
            PEER_PROGRAM,
            self.directory / "run",
            self.directory / "state",
            "auto",
        ]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.sh("nft -f -", input=f"""
            table ip steer {{
              chain out {{ type route hook output priority mangle;
                udp dport {PORT} @th,96,24 {SEALED} meta mark set {MARK}
              }}
              chain coming {{ type filter hook input priority filter;
                iifname != "esp0" udp dport {PORT} @th,96,24 {SEALED} counter drop
              }}
            }}""")  # fmt: skip

    def steer(self) -> None:
        if "fwmark" not in self.sh("ip rule"):
            self.sh(f"ip rule add pref 898 fwmark {MARK} lookup 5918")
        self.sh("ip route replace default dev esp0 table 5918")

    def remove(self) -> None:
        try:
            if self.process is not None:
                self.apply(None)
                assert self.process.stdin is not None
                assert self.process.stdout is not None
                self.process.stdin.close()
                self.process.wait(20)
                self.process.stdout.close()
        finally:
            for namespace in (self.name, self.inside):
                sh(f"ip netns del {namespace}")


def association(
    source: IPv4Address, destination: IPv4Address, tag: int, icv: IcvBits, bits: int
) -> Association:
    spi = (tag << 16) + (int(source) & 0xFF) * 256 + icv + bits
    key = bytes([tag, int(source) & 0xFF, icv, bits & 0xFF] * 9)[: bits // 8 + 4]
    return Association(
        spi=spi, source=source, destination=destination, key=key, icv_bits=icv, tag=tag
    )


def protection(
    local: IPv4Address,
    icv: IcvBits = 64,
    bits: int = 128,
    send: int = 1,
    accept: tuple[int, ...] = (1,),
) -> Protection:
    other = PEER if local == GUEST else GUEST
    return Protection(
        local=local,
        port=PORT,
        vnis={SEALED: icv},
        outbound=(association(local, other, send, icv, bits),),
        inbound=tuple(association(other, local, tag, icv, bits) for tag in accept),
    )


def marks(icv: IcvBits) -> str:
    """The rules that the plan has in the host with the kernel engine, and VXLAN without connection
    tracking as the mesh has it."""

    definitions = [definition(SEALED, True, icv), definition(PLAIN, False)]
    views = [NetworkView(each, {}, {}) for each in definitions]
    keys = (DataKey(tag=1, secret=bytes(16)),)
    assignment = Assignment(
        node=NodeId("a"),
        networks={v.definition.id: v for v in views},
        keys=keys,
        data_path_port=PORT,
    )
    facts = NodeFacts(node=NodeId("a"), data_path_address=GUEST, esp_engine="kernel")
    return f"{_rules(isolation(assignment, facts))}\n{UNTRACKED}"


def frame_marks() -> str:
    """The rules that the plan has on the bridge of the plain network."""
    return _rules(marked_frames(definition(PLAIN, False)))


def definition(vni: int, encrypted: bool, icv: IcvBits = 64) -> NetworkDefinition:
    subnet = IPv4Network(f"10.98.{vni & 0xFF}.0/24")
    segments = (Segment(subnet, subnet[1], vni),)
    return NetworkDefinition(
        id=NetworkId(f"{vni:025}"),
        name="n",
        segments=segments,
        encrypted=encrypted,
        icv_bits=icv,
    )


def _rules(found: Iterable[Namespace]) -> str:
    (namespace,) = found
    (table,) = namespace.tables.values()
    name = f"table {table.family} {table.name}"
    return f"{name}\ndelete {name}\n{name} {{\n{table.body}\n}}"


UNTRACKED = f"""
table ip untracked
delete table ip untracked
table ip untracked {{
  chain coming {{
    type filter hook prerouting priority raw;
    udp dport {PORT} notrack
  }}
  chain leaving {{
    type filter hook output priority raw;
    udp dport {PORT} notrack
  }}
  chain tracked {{
    type filter hook forward priority 0;
    ct state invalid drop
  }}
}}
"""
SECOND_LINE = f"""
table ip second-line {{
  chain coming {{
    type filter hook input priority filter;
    meta secpath missing udp dport {PORT} @th,96,24 {{ {SEALED} }} counter drop
  }}
  chain leaving {{
    type filter hook postrouting priority filter;
    rt ipsec missing udp dport {PORT} @th,96,24 {{ {SEALED} }} counter drop
  }}
}}
"""
"""The same demands in nftables alone, as Docker Swarm has the first."""


class Pair:
    """Both hosts, with both networks."""

    def __init__(self, directory: Path) -> None:
        self.peer = Peer(directory)
        self.guest = Guest(self.peer.name, "tap0", directory)
        self.icv: IcvBits = 64

    def boot(self) -> None:
        self.guest.boot()
        run = self.guest.sh
        run(
            "sysctl -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 ||"
            " true"
        )
        run(f"ip link set lo up && ip addr add {GUEST}/24 dev eth0 && ip link set eth0 up")
        run("ip netns add inside && ip -n inside link set lo up")
        macs = "02:42:0a:62:00:02", "02:42:0a:62:00:01"
        for vni, mtu in ((SEALED, 1424), (PLAIN, 1450)):
            mine, other = INNER[vni]
            overlay(vni, mine, other, *macs, "inside", run, GUEST, PEER, mtu)
            overlay(
                vni, other, mine, macs[1], macs[0], self.peer.inside, self.peer.sh, PEER, GUEST, mtu
            )
        self._bridge(*INNER[PLAIN], macs[1])
        self.peer.start()

    def _bridge(self, here: str, there: str, other_mac: str) -> None:
        """Puts the plain network on a bridge, as in an overlay's namespace: there the kernel
        answers packets that are too large for the tunnel."""
        ip = "ip -n inside"
        self.guest.sh(
            f"{ip} link set vx{PLAIN} down && {ip} link set vx{PLAIN} name vxlan0 &&"
            f" {ip} link add br0 type bridge && {ip} link set vxlan0 master br0 up &&"
            f" {ip} addr del {here}/24 dev vxlan0 && {ip} addr add {here}/24 dev br0 &&"
            f" {ip} link set br0 address 02:42:0a:62:00:02 mtu 1450 up &&"
            f" {ip} neigh add {there} lladdr {other_mac} dev br0 nud permanent"
        )

    def apply(self, icv: IcvBits = 64, bits: int = 128) -> None:
        self.icv = icv
        for run, inside in ((self.guest.sh, "inside"), (sh, self.peer.inside)):
            run(f"ip -n {inside} link set vx{SEALED} mtu {MTU[icv]}")
        self.load(marks(icv))
        self.load(frame_marks(), "ip netns exec inside")
        self.guest.apply(protection(GUEST, icv, bits))
        self.peer.apply(protection(PEER, icv, bits))
        self.peer.steer()

    def load(self, rules: str, where: str = "") -> None:
        self.guest.sh(f"{where} nft -f - <<'END'\n{rules}\nEND")

    def ping(self, vni: int, count: int = 3, interval: float = 0.05, size: int = 56) -> int:
        """How many answers the guest got."""
        words = f"ping -n -c {count} -i {interval} -W 1 -s {size} -M do {INNER[vni][1]}"
        return self.guest.sh(f"ip netns exec inside {words}", check=False).count("bytes from")

    def ping_back(self, vni: int, count: int = 3, interval: float = 0.05, size: int = 56) -> int:
        words = (
            f"ip netns exec {self.peer.inside} ping -n -c {count} -i {interval} -W 1 -s {size} -M"
            f" do {INNER[vni][0]}"
        )
        return subprocess.run(
            words, shell=True, capture_output=True, text=True, check=False
        ).stdout.count("bytes from")

    def states(self) -> dict[int, str]:
        """By SPI, as iproute2 prints them."""
        text = self.guest.sh("ip -s xfrm state")
        return (
            {
                int(block.split("spi ")[1].split("(")[0], 16): block
                for block in ("src " + b for b in text.split("\nsrc "))
            }
            if text
            else {}
        )

    def raw(self) -> str:
        return self.guest.sh(
            "ip -s xfrm state; ip xfrm policy; cat /proc/net/xfrm_stat; nft list ruleset"
        )


class Wire:
    """All frames on the wire, while it is open."""

    def __init__(self, pair: Pair) -> None:
        self._name = pair.peer.name

    def __enter__(self) -> "Wire":
        def opened() -> socket.socket:
            found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            found.bind(("tap0", 0))
            found.setblocking(False)
            return found

        self.socket = netns.run_in(Path("/run/netns", self._name), opened)
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def packets(self) -> list[bytes]:
        """What has come since the last call: IPv4 packets with their Ethernet header."""
        found: list[bytes] = []
        while True:
            try:
                frame = self.socket.recv(1 << 16)
            except BlockingIOError:
                return found
            if frame[12:14] == b"\x08\x00":
                found.append(frame)


def is_esp(frame: bytes) -> bool:
    return frame[23] == 50


def vni_in_clear(frame: bytes) -> int | None:
    return (
        int.from_bytes(frame[46:49], "big")
        if frame[23] == 17 and frame[36:38] == PORT.to_bytes(2, "big")
        else None
    )
