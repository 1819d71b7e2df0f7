"""`KernelEngine` on a kernel that has ESP: a host of two networks in the guest, one encrypted and
one plain, and its peer, with the userspace engine, in a namespace of this machine. What crosses the
wire between them is looked at on the wire.

    guest:  vx0 in "inside" ─ KernelEngine ─ eth0 ══ wire ══ tap0 ─ userspace engine ─ vx0 in "…-in"   namespaces here
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from tests.vm.esp_pair import (
    GUEST,
    INNER,
    MTU,
    PEER,
    PLAIN,
    PORT,
    SEALED,
    SECOND_LINE,
    Pair,
    Wire,
    association,
    frame_marks,
    is_esp,
    marks,
    protection,
    vni_in_clear,
    wait_for,
)
from weft.model.encryption import IcvBits, Protection

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(
        shutil.which("qemu-system-x86_64") is None, reason="needs qemu: run scripts/test-vm"
    ),
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("vm"))
    try:
        with made.guest:
            made.boot()
            yield made
    finally:
        made.peer.remove()


def test_the_kernel_has_esp(pair: Pair) -> None:
    assert pair.guest.why_not() is None


@pytest.mark.parametrize("bits", [128, 256])
@pytest.mark.parametrize("icv", [64, 128])
def test_ping_and_tcp_cross_both_ways_and_only_esp_is_on_the_wire(
    pair: Pair, icv: IcvBits, bits: int
) -> None:
    pair.apply(icv, bits)
    with Wire(pair) as wire:
        assert pair.ping(SEALED) == 3, pair.raw()
        assert pair.ping_back(SEALED) == 3
        assert pair.ping(SEALED, size=MTU[icv] - 28) == 3
        tcp(pair)
        frames = wire.packets()
    assert sum(map(is_esp, frames)) > 100
    assert not [frame for frame in frames if vni_in_clear(frame) == SEALED]
    assert max(len(frame) - 14 for frame in frames if is_esp(frame)) <= 1500
    assert not [frame for frame in frames if int.from_bytes(frame[20:22], "big") & 0x3FFF], (
        "fragmented"
    )


def tcp(pair: Pair, size: int = 300_000) -> None:
    """So many bytes each way over one connection, started by the guest."""
    serve = (
        "import"
        f" socket;s=socket.create_server(('{INNER[SEALED][1]}',7000));print('up',flush=True);c,_=s.accept();n=0\nwhile"
        f" n<{size}: n+=len(c.recv(65536))\nc.sendall(b'x'*{size});c.close();print(n)"
    )
    server = subprocess.Popen(
        ["ip", "netns", "exec", pair.peer.inside, sys.executable, "-c", serve],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        ask = (
            "import"
            f" socket;c=socket.create_connection(('{INNER[SEALED][1]}',7000),20);c.sendall(b'y'*{size});n=0\nwhile"
            " d:=c.recv(65536): n+=len(d)\nprint(n)"
        )
        assert pair.guest.sh(f'ip netns exec inside python3 -c "{ask}"', timeout=60).strip() == str(
            size
        )
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


def test_nothing_is_lost_while_keys_rotate(pair: Pair) -> None:
    pair.apply()
    pinging = subprocess.Popen(
        [
            "ip",
            "netns",
            "exec",
            pair.peer.inside,
            "ping",
            "-n",
            "-q",
            "-c",
            "800",
            "-i",
            "0.01",
            "-W",
            "2",
            INNER[SEALED][0],
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    steps = [
        (1, (1, 2)),
        (2, (1, 2, 3)),
        (3, (2, 3, 4)),
    ]
    for send, accept in steps:
        pair.guest.apply(protection(GUEST, send=send, accept=accept))
        pair.peer.apply(protection(PEER, send=send, accept=accept))
        assert pair.ping(SEALED, count=20, interval=0.02) == 20
    report = pinging.communicate(timeout=60)[0]
    assert " 0% packet loss" in report, report
    assert len(pair.states()) == 4  # one out, three in


def in_clear(pair: Pair, wire: Wire, vni: int) -> bytes:
    """A frame with an echo request as the peer would send it in clear, on the plain network; then
    with another VNI."""
    wire.packets()
    assert pair.ping_back(PLAIN, count=1) == 1
    frame = next(f for f in wire.packets() if vni_in_clear(f) == PLAIN and f[26:30] == PEER.packed)
    here, there = (IPv4Address(address).packed for address in INNER[PLAIN])
    new = [IPv4Address(address).packed for address in INNER[vni]]
    inner = frame[50:].replace(there + here, new[1] + new[0])
    header = inner[14:24] + bytes(2) + inner[26:34]
    total = sum(int.from_bytes(header[i : i + 2], "big") for i in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
    udp_without_checksum = frame[:40] + bytes(2) + frame[42:46]
    return (
        udp_without_checksum
        + vni.to_bytes(3, "big")
        + frame[49:50]
        + inner[:24]
        + checksum
        + inner[26:]
    )


def test_clear_datagrams_of_an_encrypted_network_are_refused_and_counted(pair: Pair) -> None:
    pair.apply()
    assert pair.ping(SEALED) == 3
    with Wire(pair) as wire:
        forged, honest = in_clear(pair, wire, SEALED), in_clear(pair, wire, PLAIN)
        before = pair.guest.counters()["clear"]
        wire.packets()
        for _ in range(5):
            wire.socket.send(forged)
        wire.socket.send(honest)
        answers: list[bytes] = []

        def answered() -> bool:
            answers.extend(f for f in wire.packets() if f[26:30] == GUEST.packed)
            return PLAIN in map(vni_in_clear, answers)

        wait_for(answered)
        assert not [f for f in answers if is_esp(f) or vni_in_clear(f) == SEALED]
        assert pair.guest.counters()["clear"] == before + 5
        # The forged one is good enough to be answered where nothing is demanded.
        pair.guest.apply(None)
        wire.packets()
        wire.socket.send(forged)
        wait_for(
            lambda: SEALED in [vni_in_clear(f) for f in wire.packets() if f[26:30] == GUEST.packed]
        )


def test_nftables_can_demand_the_same(pair: Pair) -> None:
    pair.apply()
    pair.load(SECOND_LINE)
    try:
        with Wire(pair) as wire:
            assert pair.ping(SEALED) == 3
            assert pair.ping(PLAIN) == 3
            forged = in_clear(pair, wire, SEALED)
            wire.socket.send(forged)
            wait_for(
                lambda: (
                    "counter packets 1 " in pair.guest.sh("nft list chain ip second-line coming")
                )
            )
            assert "counter packets 0 " in pair.guest.sh("nft list chain ip second-line leaving")
            pair.guest.apply(None)
            wire.packets()
            assert pair.ping(SEALED) == 0
            assert "counter packets 3 " in pair.guest.sh("nft list chain ip second-line leaving")
            assert SEALED not in {vni_in_clear(frame) for frame in wire.packets()}
    finally:
        pair.guest.sh("nft delete table ip second-line")


def test_a_plain_network_goes_in_clear_and_a_flush_of_nftables_opens_nothing(pair: Pair) -> None:
    pair.apply()
    with Wire(pair) as wire:
        assert pair.ping(PLAIN) == 3, pair.raw()
        assert pair.ping_back(PLAIN) == 3
        assert {vni_in_clear(frame) for frame in wire.packets()} - {None} == {PLAIN}
        pair.guest.sh("nft flush ruleset")
        assert pair.ping(SEALED) == 3
        pair.ping(PLAIN)
        assert SEALED not in {vni_in_clear(frame) for frame in wire.packets()}
        pair.load(marks(64))
        assert pair.ping(PLAIN) == 3


def test_a_full_packet_of_a_plain_network_is_not_found_too_large_for_esp(pair: Pair) -> None:
    pair.apply()
    assert pair.ping(PLAIN, size=1450 - 28) == 3, pair.raw()
    assert pair.ping_back(PLAIN, size=1450 - 28) == 3
    # Marks of datagrams alone come too late: the kernel's VXLAN has asked for the MTU by then.
    pair.guest.sh("ip netns exec inside nft flush ruleset")
    assert pair.ping(PLAIN, size=1450 - 28) == 0
    assert pair.ping(PLAIN) == 3
    pair.load(frame_marks(), "ip netns exec inside")
    pair.guest.sh("ip -n inside route flush cache")


def test_without_a_key_for_the_peer_nothing_leaves(pair: Pair) -> None:
    pair.apply()
    nobody = Protection(local=GUEST, port=PORT, vnis={SEALED: 64}, outbound=(), inbound=())
    pair.guest.apply(nobody)
    with Wire(pair) as wire:
        assert pair.ping(SEALED) == 0
        assert pair.ping(PLAIN) == 3, pair.raw()
        frames = wire.packets()
    assert not [frame for frame in frames if is_esp(frame) or vni_in_clear(frame) == SEALED]
    pair.apply()
    assert pair.ping(SEALED) == 3


def test_replayed_and_changed_packets_are_dropped_and_counted(pair: Pair) -> None:
    pair.apply()
    with Wire(pair) as wire:
        assert pair.ping_back(SEALED) == 3
        packet = next(f for f in wire.packets() if is_esp(f) and f[26:30] == PEER.packed)
        before = pair.guest.counters()
        ahead = int.from_bytes(packet[38:42], "big") + 100
        changed = packet[:38] + ahead.to_bytes(4, "big") + packet[42:]
        stranger = packet[:34] + bytes([0, 0, 9, 9]) + packet[38:]
        for frame in (packet, packet, changed, stranger, packet[:50]):
            wire.socket.send(frame)
        wanted = {"replayed": 2, "forged": 1, "unknown_spi": 1}

        def counted() -> bool:
            after = pair.guest.counters()
            return all(after[name] == before[name] + count for name, count in wanted.items())

        wait_for(counted)
        assert pair.guest.counters()["opened"] == before["opened"]


def test_a_restart_of_the_daemon_keeps_numbers_and_a_lost_state_goes_on_above_them(
    pair: Pair,
) -> None:
    pair.apply()
    out = pair_spi(GUEST)
    with Wire(pair) as wire:
        assert pair.ping(SEALED) == 3
        pair.guest.restart_engine()
        pair.guest.apply(protection(GUEST))
        assert pair.ping(SEALED) == 3
        pair.guest.sh("ip xfrm state flush")
        pair.guest.apply(protection(GUEST))
        assert pair.ping(SEALED) == 3, pair.raw()
        sent = [frame for frame in wire.packets() if is_esp(frame) and frame[26:30] == GUEST.packed]
    numbers = [int.from_bytes(frame[38:42], "big") for frame in sent]
    assert {int.from_bytes(frame[34:38], "big") for frame in sent} == {out}
    assert numbers == sorted(set(numbers))
    assert numbers[-1] - numbers[0] > 2**27
    assert len({frame[42:50] for frame in sent}) == len(sent), "an initialization vector came twice"


def pair_spi(local: IPv4Address, tag: int = 1) -> int:
    return association(local, PEER if local == GUEST else GUEST, tag, 64, 128).spi


def test_nothing_of_ours_stays_and_what_is_not_ours_does(pair: Pair) -> None:
    foreign = (
        "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x777 reqid 5 mode transport"
        " aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128 && ip xfrm policy"
        " add dir out src 192.0.2.1/32 dst 192.0.2.2/32 proto 17 dport 4789 tmpl proto esp reqid 5"
        " mode transport"
    )
    pair.guest.sh(foreign)
    pair.apply()
    pair.guest.apply(None)
    assert list(pair.states()) == [0x777]
    assert pair.guest.sh("ip xfrm policy").count("dir ") == 1
    pair.guest.sh("ip xfrm state flush; ip xfrm policy flush")


def test_a_longer_run_of_numbers_is_given_to_a_state_that_goes_on(pair: Pair) -> None:
    pair.apply()
    assert pair.ping(SEALED) == 3
    pair.guest.sh("cat > /tmp/longer.py <<'END'\n" + LONGER + "\nEND")
    before, after, longest = json.loads(pair.guest.sh("python3 /tmp/longer.py"))
    assert after == [before[0], longest]
    assert pair.ping(SEALED) == 3


LONGER = """
import json
from weft.linux.netlink import xfrm
from weft.linux.netlink.socket import NETLINK_XFRM, NetlinkSocket
channel = NetlinkSocket(NETLINK_XFRM)
def ask():
    found = [xfrm.decode_state(body).state for body in channel.dump(*xfrm.dump_states())]
    return next(state for state in found if not state.window)
before = ask()
assert channel.execute([xfrm.limit_state(before._replace(packet_limit=before.packet_limit * 2))]) == {}
after = ask()
print(json.dumps([[s.sent, s.packet_limit] for s in (before, after)] + [before.packet_limit * 2]))
"""
