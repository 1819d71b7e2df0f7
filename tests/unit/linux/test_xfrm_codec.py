"""The XFRM codec against iproute2, which says what it would send, and against itself."""

import os
import re
import shutil
import subprocess
from ipaddress import IPv4Address, IPv4Network
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.linux.netlink import attributes, xfrm
from weft.linux.netlink.xfrm import Policy, State, Template

ADDRESSES = st.ip_addresses(v=4)
NETWORKS = st.builds(lambda a, p: IPv4Network((a, p), strict=False), ADDRESSES, st.integers(0, 32))
NUMBERS = st.integers(0, 2**32 - 1)
STATES = st.builds(
    State,
    spi=st.integers(256, 2**32 - 1),
    source=ADDRESSES,
    destination=ADDRESSES,
    reqid=NUMBERS,
    key=st.sampled_from([20, 36]).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
    icv_bits=st.sampled_from([64, 128]),
    window=st.integers(0, 4096),
    sent=NUMBERS,
    packet_limit=st.none() | st.integers(1, 2**40),
)
POLICIES = st.builds(
    Policy,
    direction=st.sampled_from([0, 1]),
    source=NETWORKS,
    destination=NETWORKS,
    port=st.integers(1, 65535),
    priority=NUMBERS,
    mark=st.none() | NUMBERS,
    template=st.none() | st.builds(Template, NUMBERS, NUMBERS, ADDRESSES, ADDRESSES),
)
A, B = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
KEY = bytes(range(20))
STATE = State(0x1234, A, B, 0xD0C4E3, KEY, 64)
POLICY = Policy(
    xfrm.OUT, IPv4Network(A), IPv4Network(B), 4789, 30, 0xD0C4E4, Template(0xD0C4E4, 0x1234, A, B)
)
needs_strace = pytest.mark.skipif(
    not shutil.which("strace") or os.geteuid() != 0, reason="needs strace and root"
)


@given(STATES)
def test_states_come_back(state: State) -> None:
    found = xfrm.decode_state(xfrm.add_state(state).body)
    assert found is not None
    assert found.state == state
    assert (found.packets, found.repeated, found.outside_window, found.forged) == (0, 0, 0, 0)


@given(POLICIES)
def test_policies_come_back(policy: Policy) -> None:
    assert xfrm.decode_policy(xfrm.set_policy(policy).body) == policy


def test_keys_are_not_printed() -> None:
    assert KEY.hex() not in repr(STATE)
    assert repr(KEY) not in f"{STATE!r} {STATE}"


def sent_by(words: str) -> bytes:
    """The body of the request that `ip xfrm` makes, whatever becomes of it in a namespace that ends
    with it."""
    command = [
        "unshare",
        "--net",
        "strace",
        "-xx",
        "-s",
        "9999",
        "-e",
        "trace=sendmsg",
        "ip",
        "xfrm",
        *words.split(),
    ]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    found = re.search(r'nlmsg_pid=0}, "([^"]*)"', told)
    assert found, told
    return bytes.fromhex(found[1].replace("\\x", ""))


def parts(body: bytes, fixed: int) -> tuple[bytes, dict[int, bytes]]:
    return body[:fixed], attributes.decode(body, fixed)


@needs_strace
@pytest.mark.parametrize(("key", "icv"), [(KEY, 64), (KEY + bytes(16), 128)])
def test_iproute2_sends_the_same_state(key: bytes, icv: Literal[64, 128]) -> None:
    theirs = sent_by(
        "state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1234 reqid 0xd0c4e3 mode transport"
        f" replay-oseq 0x77 aead {xfrm.AEAD} 0x{key.hex()} {icv}"
    )
    ours = xfrm.add_state(STATE._replace(key=key, icv_bits=icv, sent=0x77))
    assert parts(ours.body, 224) == parts(theirs, 224)


@needs_strace
def test_iproute2_sends_the_same_removal() -> None:
    theirs = sent_by("state delete src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1234")
    assert xfrm.remove_state(STATE.spi, STATE.destination).body == theirs[:24]


@needs_strace
@pytest.mark.parametrize("marked", [True, False])
def test_iproute2_sends_the_same_policy(marked: bool) -> None:
    policy = POLICY if marked else POLICY._replace(mark=None)
    selector = "dir out src 10.0.0.1/32 dst 10.0.0.2/32 proto udp dport 4789"
    mark = "mark 0xd0c4e4 mask 0xffffffff" if marked else ""
    template = "tmpl src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1234 reqid 13681892 mode transport"
    theirs = sent_by(f"policy update {selector} {mark} priority 30 {template}")
    assert parts(xfrm.set_policy(policy).body, 168) == parts(theirs, 168)
    theirs = sent_by(f"policy delete {selector} {mark}")
    assert parts(xfrm.remove_policy(policy).body, 64) == parts(theirs, 64)
