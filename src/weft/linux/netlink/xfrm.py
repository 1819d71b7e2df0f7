"""XFRM, the kernel's IPsec: security associations ("states") and policies; encodes requests,
decodes dumps. Pure functions.

Only what Weft uses: IPv4, ESP in transport mode, AES-GCM as in RFC 4106, policies for UDP to a
port. The structures are those of `include/uapi/linux/xfrm.h`; addresses have 16 bytes there, of
which IPv4 takes the first four. Destination, SPI and protocol identify a state; selector, direction
and mark identify a policy.
"""

import socket
import struct
from ipaddress import IPv4Address, IPv4Network
from typing import Literal, NamedTuple

from weft.linux.netlink.attributes import attribute, decode, to_text
from weft.linux.netlink.message import NLM_F_CREATE, NLM_F_EXCL, Request
from weft.model.addresses import Port
from weft.model.encryption import IcvBits, Spi

NEWSA, DELSA, GETSA, NEWPOLICY, DELPOLICY, GETPOLICY, UPDPOLICY, UPDSA = (
    16,
    17,
    18,
    19,
    20,
    21,
    25,
    26,
)
IN: Literal[0] = 0
OUT: Literal[1] = 1
AEAD = "rfc4106(gcm(aes))"
"""AES-GCM for ESP, as the kernel's crypto calls it; 4 bytes of salt follow the key."""
REPLAY_WINDOW = 2048
"""Packets. The classic window has at most 32. A larger one needs the structure made for extended
sequence numbers, which the kernel also takes without them, up to 4096 (`verify_replay`,
`xfrm_init_replay`)."""

_XFRMA_TMPL, _XFRMA_REPLAY_VAL, _XFRMA_ALG_AEAD, _XFRMA_MARK, _XFRMA_REPLAY_ESN_VAL = (
    5,
    10,
    18,
    21,
    23,
)
_UNLIMITED = 2**64 - 1
_ALL = 0xFFFFFFFF
_SELECTOR = struct.Struct("=4s12x4s12xHHHHHBBB3xiI")
"""Destination, source, their ports with masks, family, prefix lengths, protocol, interface,
user."""
_ID = struct.Struct("=4s12x4sB3x")
"""Destination, SPI, protocol."""
_SOURCE = struct.Struct("=4s12x")
_LIMITS = struct.Struct("=8Q")
"""Soft and hard limits of bytes, packets, seconds since creation and seconds since first use."""
_USED = struct.Struct("=QQQQ")
"""Bytes, packets, time of creation, time of first use."""
_STATISTICS = struct.Struct("=III")
"""Packets outside the window, repeated, and with a wrong ICV."""
_STATE = struct.Struct("=IIHBBB7x")
"""Sequence number of the key exchange, reqid, family, mode, replay window, flags."""
_POLICY = struct.Struct("=IIBBBB4x")
"""Priority, index, direction, action, flags, share."""
_TEMPLATE = struct.Struct("=4s12x4sB3xH2x4s12xIBBB1xIII")
"""Identity, family, source, reqid, mode, share, optional, allowed algorithms of three kinds."""
_ALGORITHM = struct.Struct("=64sII")
_REPLAY = struct.Struct("=III")
"""Last number sent, last number received, bitmap."""
_REPLAY_LARGE = struct.Struct("=6I")
"""Words of the bitmap that follows, last number sent and received, their upper halves, window
size."""
_STATE_SIZE, _POLICY_SIZE = 224, 168


class State(NamedTuple):
    """A security association that we make."""

    spi: Spi
    source: IPv4Address
    destination: IPv4Address
    reqid: int
    key: bytes
    """An AES key and 4 bytes of salt."""
    icv_bits: IcvBits
    window: int = 0
    """Size of the replay window in packets; 0 for sending."""
    sent: int = 0
    """The last sequence number used."""
    packet_limit: int | None = None
    """The number of packets after which the kernel deletes the state."""

    def __repr__(self) -> str:
        return (
            f"State({self.spi:#x} {self.source} -> {self.destination} reqid={self.reqid:#x}"
            f" icv={self.icv_bits})"
        )


class StateInfo(NamedTuple):
    """A state as the kernel reports it. `state.key` is all zeros where the kernel does not reveal
    keys (lockdown)."""

    state: State
    packets: int
    outside_window: int
    repeated: int
    forged: int


class Template(NamedTuple):
    """The demand of a policy: ESP under a state with this reqid, and with this SPI unless it is
    0."""

    reqid: int
    spi: int = 0
    source: IPv4Address = IPv4Address(0)
    destination: IPv4Address = IPv4Address(0)


class Policy(NamedTuple):
    """A policy for UDP to `port`. Without `template`, packets pass in clear."""

    direction: Literal[0, 1]
    source: IPv4Network
    destination: IPv4Network
    port: Port
    priority: int
    """The lowest number wins."""
    mark: int | None = None
    """The mark of the packets to which the policy applies; None for all packets."""
    template: Template | None = None


def add_state(state: State) -> Request:
    """Makes a state. Fails with EEXIST if there is one with the same identity."""
    return Request(NEWSA, NLM_F_CREATE | NLM_F_EXCL, _state_body(state))


def limit_state(state: State) -> Request:
    """Changes `packet_limit` of an existing state; its counters stay."""
    return Request(UPDSA, 0, _state_body(state))


def remove_state(spi: Spi, destination: IPv4Address) -> Request:
    body = struct.pack(
        "=4s12x4sHBx",
        destination.packed,
        spi.to_bytes(4, "big"),
        socket.AF_INET,
        socket.IPPROTO_ESP,
    )
    return Request(DELSA, 0, body)


def dump_states() -> tuple[int, bytes]:
    return GETSA, b""


def decode_state(body: bytes) -> StateInfo | None:
    """None if the state is not ESP over IPv4 with our algorithm."""
    destination, spi, protocol = _ID.unpack_from(body, 56)
    limits = _LIMITS.unpack_from(body, 96)
    _, packets, _, _ = _USED.unpack_from(body, 160)
    outside, repeated, forged = _STATISTICS.unpack_from(body, 192)
    _, reqid, family, _, window, _ = _STATE.unpack_from(body, 204)
    found = decode(body, _STATE_SIZE)
    algorithm = found.get(_XFRMA_ALG_AEAD, b"")
    if (
        family != socket.AF_INET
        or protocol != socket.IPPROTO_ESP
        or to_text(algorithm[:64]) != AEAD
    ):
        return None
    _, key_bits, icv_bits = _ALGORITHM.unpack_from(algorithm)
    sent = 0
    if large := found.get(_XFRMA_REPLAY_ESN_VAL):
        _, sent, _, _, _, window = _REPLAY_LARGE.unpack_from(large)
    elif small := found.get(_XFRMA_REPLAY_VAL):
        sent, _, _ = _REPLAY.unpack_from(small)
    state = State(
        spi=int.from_bytes(spi, "big"),
        source=IPv4Address(body[80:84]),
        destination=IPv4Address(destination),
        reqid=reqid,
        key=algorithm[_ALGORITHM.size : _ALGORITHM.size + key_bits // 8],
        icv_bits=icv_bits,
        window=window,
        sent=sent,
        packet_limit=None if limits[3] == _UNLIMITED else limits[3],
    )
    return StateInfo(state, packets, outside, repeated, forged)


def set_policy(policy: Policy) -> Request:
    """Makes the policy, or replaces the one with the same identity; one of the two is in force at
    each moment."""
    body = _selector(policy) + _limits(None) + bytes(_USED.size)
    body += _POLICY.pack(policy.priority, 0, policy.direction, 0, 0, 0)
    if policy.template is not None:
        body += attribute(_XFRMA_TMPL, _template(policy.template))
    return Request(UPDPOLICY, 0, body + _mark(policy))


def remove_policy(policy: Policy) -> Request:
    return Request(
        DELPOLICY, 0, _selector(policy) + struct.pack("=IB3x", 0, policy.direction) + _mark(policy)
    )


def dump_policies() -> tuple[int, bytes]:
    return GETPOLICY, b""


def decode_policy(body: bytes) -> Policy | None:
    """None for a policy that we would not make. Mark and template tell whether we made it
    (`weft.linux.xfrm`)."""
    selector = _SELECTOR.unpack_from(body)
    (
        destination,
        source,
        port,
        port_mask,
        _,
        source_port_mask,
        family,
        to_length,
        from_length,
        protocol,
        _,
        _,
    ) = selector
    priority, _, direction, action, _, _ = _POLICY.unpack_from(body, 152)
    found = decode(body, _POLICY_SIZE)
    templates = found.get(_XFRMA_TMPL, b"")
    mark, mask = struct.unpack("=II", found.get(_XFRMA_MARK, bytes(8)))
    plain = (
        family == socket.AF_INET
        and protocol == socket.IPPROTO_UDP
        and port_mask == 0xFFFF
        and not source_port_mask
    )
    if (
        not plain
        or direction not in (IN, OUT)
        or action
        or mask not in (0, _ALL)
        or len(templates) > _TEMPLATE.size
    ):
        return None
    return Policy(
        direction=direction,
        source=IPv4Network((source, from_length)),
        destination=IPv4Network((destination, to_length)),
        port=socket.ntohs(port),
        priority=priority,
        mark=mark if mask else None,
        template=_decode_template(templates) if templates else None,
    )


def _state_body(state: State) -> bytes:
    identity = _ID.pack(state.destination.packed, state.spi.to_bytes(4, "big"), socket.IPPROTO_ESP)
    body = (
        bytes(_SELECTOR.size)
        + identity
        + _SOURCE.pack(state.source.packed)
        + _limits(state.packet_limit)
    )
    body += bytes(_USED.size + _STATISTICS.size) + _STATE.pack(
        0, state.reqid, socket.AF_INET, 0, 0, 0
    )
    name = AEAD.encode()
    body += attribute(
        _XFRMA_ALG_AEAD, _ALGORITHM.pack(name, len(state.key) * 8, state.icv_bits) + state.key
    )
    if state.window:
        words = -(-state.window // 32)
        large = _REPLAY_LARGE.pack(words, state.sent, 0, 0, 0, state.window)
        return body + attribute(_XFRMA_REPLAY_ESN_VAL, large + bytes(words * 4))
    return body + attribute(_XFRMA_REPLAY_VAL, _REPLAY.pack(state.sent, 0, 0))


def _limits(packets: int | None) -> bytes:
    return _LIMITS.pack(
        _UNLIMITED, _UNLIMITED, _UNLIMITED, _UNLIMITED if packets is None else packets, 0, 0, 0, 0
    )


def _selector(policy: Policy) -> bytes:
    to, from_ = policy.destination, policy.source
    return _SELECTOR.pack(
        to.network_address.packed,
        from_.network_address.packed,
        socket.htons(policy.port),
        0xFFFF,
        0,
        0,
        socket.AF_INET,
        to.prefixlen,
        from_.prefixlen,
        socket.IPPROTO_UDP,
        0,
        0,
    )


def _template(template: Template) -> bytes:
    return _TEMPLATE.pack(
        template.destination.packed,
        template.spi.to_bytes(4, "big"),
        socket.IPPROTO_ESP,
        socket.AF_INET,
        template.source.packed,
        template.reqid,
        0,
        0,
        0,
        _ALL,
        _ALL,
        _ALL,
    )


def _decode_template(data: bytes) -> Template:
    destination, spi, _, _, source, reqid, *_ = _TEMPLATE.unpack_from(data)
    return Template(
        reqid, int.from_bytes(spi, "big"), IPv4Address(source), IPv4Address(destination)
    )


def _mark(policy: Policy) -> bytes:
    return (
        b""
        if policy.mark is None
        else attribute(_XFRMA_MARK, struct.pack("=II", policy.mark, _ALL))
    )
