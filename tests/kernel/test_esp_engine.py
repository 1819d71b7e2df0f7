"""Two userspace ESP engines in two namespaces, with an overlay through them: ping, TCP, key change,
a killed engine, the wire.

The steering is made by hand, as the plan makes it: a mark by VNI, a rule, a route, and guards.
"""

import base64
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from weft.errors import OperationFailed
from weft.linux import netns
from weft.linux.esp import helper
from weft.linux.esp.tap import Tap
from weft.model.codec import encode
from weft.model.encryption import Association, IcvBits, Protection

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

HOST = Path(__file__).with_name("esp_host.py")
NETNS = Path("/run/netns")
ADDRESSES = (IPv4Address("10.99.7.1"), IPv4Address("10.99.7.2"))
INNER = ("10.98.7.1", "10.98.7.2")
VNI, PORT, MARK, TABLE = 4097, 4789, 0xD0C4E3, 5918
GUARD = f"""
table ip espguard {{
  chain steer {{ type route hook output priority mangle;
    udp dport {PORT} @th,96,24 {VNI} meta mark set {MARK}
  }}
  chain leaving {{ type filter hook postrouting priority 300;
    oifname != "esp0" udp dport {PORT} @th,96,24 {VNI} counter drop
  }}
  chain coming {{ type filter hook input priority filter;
    iifname != "esp0" udp dport {PORT} @th,96,24 {VNI} counter drop
  }}
}}
"""


T = TypeVar("T")
Vnis = dict[int, IcvBits]


def sh(command: str, input: str | None = None) -> str:
    return subprocess.run(
        command, shell=True, check=True, capture_output=True, text=True, input=input
    ).stdout


def wait_for(condition: Callable[[], T], seconds: float = 15.0) -> T:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(0.02)
    return found


class Host:
    """A namespace of the underlay with an engine, and one inside the overlay."""

    def __init__(self, number: int, tag: str, directory: Path, icv: IcvBits) -> None:
        self.number, self.icv = number, icv
        self.name, self.inside = f"esp-{tag}-n{number}", f"esp-{tag}-x{number}"
        self.run, self.state = directory / f"run{number}", directory / f"state{number}"
        self.local, self.other = ADDRESSES[number - 1], ADDRESSES[2 - number]
        self.process: subprocess.Popen[str] | None = None

    def start(self, implementation: str) -> None:
        enter = ("ip", "netns", "exec", self.name)
        argv = (*enter, sys.executable, HOST, self.run, self.state, implementation)
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, *words: object) -> Any:
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

    def stop(self) -> None:
        """The daemon, not the engine."""
        if self.process is not None:
            self.process.communicate(timeout=20)
            self.process = None

    def sh(self, command: str, inside: bool = False, input: str | None = None) -> str:
        return sh(f"ip netns exec {self.inside if inside else self.name} {command}", input)

    def engine_pid(self) -> int | None:
        """Whoever answers at the control socket."""
        with socket.socket(socket.AF_UNIX) as channel:
            try:
                channel.connect(str(self.run / "esp.sock"))
            except OSError:
                return None
            peer = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            return int(struct.unpack("=iII", peer)[0])

    def make(self) -> None:
        mtu, other = 1424 if self.icv == 64 else 1416, 3 - self.number
        for namespace in (self.name, self.inside):
            sh(f"ip netns add {namespace}")
            sh(f"ip -n {namespace} link set lo up")
        self.sh(f"ip link add vx0 type vxlan id {VNI} local {self.local} dstport {PORT} nolearning")
        self.sh(f"ip link set vx0 netns {self.inside}")
        self.sh(
            "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1",
            inside=True,
        )
        self.sh(f"ip link set vx0 address 02:42:0a:62:07:0{self.number} mtu {mtu} up", inside=True)
        self.sh(f"ip addr add {INNER[self.number - 1]}/24 dev vx0", inside=True)
        self.sh(
            f"ip neigh add {INNER[other - 1]} lladdr 02:42:0a:62:07:0{other} dev vx0 nud permanent",
            inside=True,
        )
        self.sh(
            f"bridge fdb add 02:42:0a:62:07:0{other} dev vx0 dst {self.other} self permanent",
            inside=True,
        )
        self.sh("nft -f -", input=GUARD)

    def steer(self) -> None:
        self.sh(f"ip rule add pref 898 fwmark {MARK} lookup {TABLE}")
        self.sh(f"ip route replace default dev esp0 table {TABLE}")

    def remove(self) -> None:
        if self.process is not None:
            try:
                self.apply(None)
            finally:
                self.stop()


def association(
    source: IPv4Address, destination: IPv4Address, tag: int, icv: IcvBits = 64
) -> Association:
    spi = (tag << 16) + (int(source) & 0xFF) * 256 + icv
    key = bytes([tag, int(source) & 0xFF, icv] * 7)[:20]
    return Association(
        spi=spi, source=source, destination=destination, key=key, icv_bits=icv, tag=tag
    )


def protection(
    host: Host, send: int = 1, accept: tuple[int, ...] = (1,), vnis: Vnis | None = None
) -> Protection:
    return Protection(
        local=host.local,
        port=PORT,
        vnis={VNI: host.icv} if vnis is None else vnis,
        outbound=(association(host.local, host.other, send, host.icv),),
        inbound=tuple(association(host.other, host.local, tag, host.icv) for tag in accept),
    )


class Network:
    def __init__(self, directory: Path, implementation: str, icv: IcvBits) -> None:
        self.hosts = [Host(number, f"{os.getpid()}", directory, icv) for number in (1, 2)]
        self.implementation = implementation

    def make(self) -> None:
        a, b = self.hosts
        for host in self.hosts:
            host.make()
        sh(f"ip -n {a.name} link add eth0 type veth peer name eth0 netns {b.name}")
        for host in self.hosts:
            host.sh(f"ip addr add {host.local}/24 dev eth0")
            host.sh("ip link set eth0 up")
        for host in self.hosts:
            host.start(self.implementation)
            host.apply(protection(host))
            host.steer()

    def remove(self) -> None:
        for host in self.hosts:
            try:
                host.remove()
            finally:
                for namespace in (host.name, host.inside):
                    subprocess.run(["ip", "netns", "del", namespace], capture_output=True)


@pytest.fixture(
    params=[("python", 64), ("python", 128), ("helper", 64), ("helper", 128)],
    ids=lambda pair: f"{pair[0]}-{pair[1]}",
)
def network(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Network]:
    implementation, icv = request.param
    if implementation == "helper" and not helper.is_available():
        pytest.skip("the C helper is not built")
    made = Network(tmp_path, implementation, icv)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def ping(host: Host, count: int = 3, size: int = 56, wait: int = 2) -> bool:
    done = subprocess.run(
        f"ip netns exec {host.inside} ping -q -c {count} -i 0.01 -W {wait} -s {size} -M do"
        f" {INNER[2 - host.number]}".split(),
        capture_output=True,
        text=True,
    )
    return done.returncode == 0


def inside(host: Host, function: Callable[[], T]) -> T:
    """In the overlay, on a thread of its own."""
    return netns.run_in(NETNS / host.inside, function)


class Capture:
    """Everything that is on the underlay's wire at one host, from now on."""

    def __init__(self, host: Host) -> None:
        self._socket = netns.run_in(NETNS / host.name, self._open)
        self._frames: list[bytes] = []

    @staticmethod
    def _open() -> socket.socket:
        channel = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        channel.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)
        channel.bind(("eth0", 3))
        channel.setblocking(False)
        return channel

    def packets(self) -> list[bytes]:
        try:
            while True:
                frame = self._socket.recv(65535)
                if frame[12:14] == b"\x08\x00":
                    self._frames.append(frame[14:])
        except BlockingIOError:
            pass
        return self._frames

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def listen(host: Host) -> socket.socket:
    server = inside(host, lambda: socket.create_server((INNER[host.number - 1], 0)))
    server.settimeout(20)
    return server


def connect(host: Host, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    client = inside(host, lambda: socket.create_connection(server.getsockname(), 20))
    accepted, _ = server.accept()
    accepted.settimeout(20)
    return client, accepted


def transfer(client: socket.socket, accepted: socket.socket, data: bytes) -> None:
    """Both ways in turn: sends in pieces that the socket takes, reads what is there."""
    for sender, receiver in ((client, accepted), (accepted, client)):
        got, sent = bytearray(), 0
        sender.setblocking(False)
        receiver.settimeout(20)
        while len(got) < len(data):
            try:
                sent += sender.send(data[sent : sent + 65536]) if sent < len(data) else 0
                if sent < len(data):
                    continue
            except BlockingIOError:
                pass
            got += receiver.recv(1 << 20)
        assert bytes(got) == data


def test_ping_and_tcp_cross_sealed_and_unfragmented(network: Network) -> None:
    a, b = network.hosts
    mtu = 1424 if a.icv == 64 else 1416
    assert a.ask("implementation") == network.implementation
    with Capture(a) as capture:
        assert ping(a)
        assert ping(a, size=mtu - 28)
        assert not ping(a, size=mtu - 27, count=1, wait=1)
        data = os.urandom(3_000_001)
        with listen(b) as server:
            client, accepted = connect(a, server)
            with client, accepted:
                transfer(client, accepted, data)
        packets = capture.packets()
    assert {packet[9] for packet in packets} == {50}
    assert not any(int.from_bytes(packet[6:8], "big") & 0x3FFF for packet in packets), "a fragment"
    assert max(len(packet) for packet in packets) == 1500
    assert not any(
        data[at : at + 32] in packet for packet in packets[:200] for at in (0, 1000, 3000)
    )
    counters = [host.ask("counters") for host in network.hosts]
    assert counters[0]["sealed"] == counters[1]["opened"] > 1000
    assert counters[1]["sealed"] == counters[0]["opened"] > 1000
    assert not any(
        counters[k][name]
        for k in (0, 1)
        for name in ("forged", "replayed", "malformed", "unknown_spi")
    )


def test_key_change_loses_nothing(network: Network) -> None:
    a, b = network.hosts
    with listen(b) as server:
        client, accepted = connect(a, server)
        with client, accepted:
            for tag in range(2, 6):
                for host in (a, b):
                    host.apply(protection(host, send=tag - 1, accept=(tag - 1, tag)))
                for host in (a, b):
                    host.apply(protection(host, send=tag, accept=(tag - 1, tag)))
                transfer(client, accepted, os.urandom(200_000))
    counters = [host.ask("counters") for host in network.hosts]
    assert not any(
        counters[k][name]
        for k in (0, 1)
        for name in ("unknown_spi", "no_association", "lost", "forged")
    )


def test_killed_engine_is_restarted_and_never_lets_cleartext_out(network: Network) -> None:
    a, _ = network.hosts
    assert ping(a)
    before = a.engine_pid()
    with Capture(a) as capture:
        assert before is not None
        os.kill(before, 9)
        wait_for(lambda: a.engine_pid() not in (None, before))
        wait_for(lambda: ping(a, count=1, wait=1))
        packets = capture.packets()
    assert packets
    assert {packet[9] for packet in packets} == {50}


def test_dead_engine_without_daemon_lets_nothing_pass(network: Network) -> None:
    a, _ = network.hosts
    a.stop()
    pid = a.engine_pid()
    assert ping(a), "the engine outlives its daemon"
    with Capture(a) as capture:
        assert pid is not None
        os.kill(pid, 9)
        wait_for(lambda: not Path(f"/proc/{pid}").exists())
        assert not ping(a, count=2, wait=1)
        assert capture.packets() == []
    a.start(network.implementation)
    a.apply(protection(a))
    assert ping(a)


def test_new_daemon_finds_the_engine_and_numbers_go_on(network: Network) -> None:
    a, _ = network.hosts
    assert ping(a)
    pid = a.engine_pid()
    a.stop()
    a.start(network.implementation)
    assert a.ask("counters")["sealed"] >= 3
    with Capture(a) as capture:
        a.apply(protection(a))
        assert a.engine_pid() == pid
        assert ping(a)
        numbers = [
            struct.unpack_from("!I", p, 24)[0]
            for p in capture.packets()
            if p[12:16] == a.local.packed
        ]
    assert numbers == [4, 5, 6]


def test_none_leaves_nothing(network: Network) -> None:
    a, _ = network.hosts
    pid = a.engine_pid()
    a.apply(None)
    assert not Path(f"/proc/{pid}").exists()
    assert "esp0" not in a.sh("ip -br link")
    a.apply(None)
    a.apply(protection(a))
    a.sh(f"ip route replace default dev esp0 table {TABLE}")
    with Capture(a) as capture:
        assert ping(a)
        [first, *_] = [
            struct.unpack_from("!I", p, 24)[0]
            for p in capture.packets()
            if p[12:16] == a.local.packed
        ]
    assert first == 2**22 + 1, "behind the block that the first engine reserved"


def test_wrong_packets_are_dropped_and_counted(network: Network) -> None:
    a, b = network.hosts
    with Capture(b) as capture:
        assert ping(a, count=1)
        [packet] = [p[20:] for p in capture.packets() if p[12:16] == a.local.packed]
    raw = netns.run_in(NETNS / a.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 50))
    later = packet[:4] + struct.pack("!I", 99) + packet[8:]
    hostile = {
        "replayed": packet,
        "malformed": later[:-1],
        "forged": later,
        "unknown_spi": b"\x7f" + packet[1:],
    }
    before = b.ask("counters")
    with raw:
        for data in hostile.values():
            raw.sendto(data, (str(b.local), 0))
        wait_for(lambda: sum(b.ask("counters")[k] - before[k] for k in hostile) == len(hostile))
    after = b.ask("counters")
    assert {k: after[k] - before[k] for k in hostile} == dict.fromkeys(hostile, 1)
    assert after["opened"] == before["opened"]
    b.apply(protection(b, vnis={VNI + 1: b.icv}))
    assert not ping(a, count=1, wait=1)
    assert b.ask("counters")["wrong_vni"] == 1
    b.apply(protection(b))
    assert ping(a)


def test_only_protected_traffic_leaves(network: Network) -> None:
    a, _ = network.hosts
    a.apply(msgspec.structs.replace(protection(a), outbound=()))
    with Capture(a) as capture:
        assert not ping(a, count=1, wait=1)
        assert a.ask("counters")["no_association"] == 1
        a.apply(protection(a, vnis={}))
        assert not ping(a, count=1, wait=1)
        assert a.ask("counters")["wrong_vni"] == 1
        assert capture.packets() == []


def test_dead_peer_blocks_nobody(network: Network) -> None:
    a, b = network.hosts
    dead = IPv4Address("10.99.7.77")
    both = (association(a.local, b.local, 1, a.icv), association(a.local, dead, 1, a.icv))
    a.apply(msgspec.structs.replace(protection(a), outbound=both))
    mac = "02:42:0a:62:07:77"
    a.sh(f"ip neigh add 10.98.7.77 lladdr {mac} dev vx0 nud permanent", inside=True)
    a.sh(f"bridge fdb add {mac} dev vx0 dst {dead} self permanent", inside=True)
    channel = inside(a, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with channel:
        for _ in range(2000):
            channel.sendto(bytes(1300), ("10.98.7.77", 9))
        assert ping(a, count=5, wait=1)


def test_keys_are_in_memory_only(network: Network) -> None:
    a, _ = network.hosts
    pid = a.engine_pid()
    key = association(a.local, a.other, 1, a.icv).key[:16]
    process = Path(f"/proc/{pid}")
    files = [
        process / "cmdline",
        process / "environ",
        *(p for d in (a.run, a.state) for p in d.iterdir() if p.is_file()),
    ]
    for path in files:
        data = path.read_bytes()
        assert key not in data, path
        assert key.hex().encode() not in data.lower(), path
    assert all(p.stat().st_mode & 0o077 == 0 for d in (a.run, a.state) for p in d.iterdir())
    assert "Max core file size        0                    0" in (process / "limits").read_text()


@pytest.mark.parametrize("strictness", [1, 2])
def test_hosts_that_filter_reverse_paths(network: Network, strictness: int) -> None:
    for host in network.hosts:
        host.sh(f"sysctl -qw net.ipv4.conf.all.rp_filter={strictness}")
    assert ping(network.hosts[0])


def test_a_device_that_is_not_there_has_a_cause() -> None:
    with pytest.raises(
        OperationFailed,
        match="cannot open device esp9 of /dev/net/tun: no interface with this name",
    ):
        Tap("esp9", offload=False, namespace=Path("/proc/self/ns/net"))
