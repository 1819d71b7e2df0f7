"""Which traffic is encrypted, and with which keys. An encrypted network's traffic is encrypted or
not sent.

    previous hop   overlay.py: a VXLAN datagram for another host
    this hop       an ESP engine (linux/esp or linux/xfrm) encrypts it: RFC 4303 transport mode,
                   AES-GCM as in RFC 4106
    next hop       the wire; the other host's engine decrypts it and gives it to the VXLAN device

No packet can bypass the engine. This holds by construction, not by rules that an operator may
flush:

* Userspace engine: the VXLAN devices of encrypted networks have their sockets in a separate
  namespace, `esp_sbox`. Its only interface is the engine's. Datagrams sent there can only go to the
  engine, and clear datagrams from the wire never get there.
* Kernel engine: the policies demand ESP of every VXLAN datagram except those that nftables marks as
  belonging to a plain network. Without the marks, more is encrypted than necessary, and clear
  datagrams are refused; never the other way round.

The kernel's VXLAN chooses the route, and with it the policy and the MTU, from the mark that the
frame has when it leaves the bridge (`vxlan_get_route`, `skb_tunnel_check_pmtu`). So frames are
marked there as well; otherwise a plain network's full packets would be found too large for ESP. The
marks are there before the policies, and go after them.

Without an engine or without keys, an encrypted network has no VXLAN device: it works between the
containers of one host only.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from weft.model.addresses import Vni
from weft.model.assignment import NetworkDefinition, Overlays
from weft.model.encryption import Association, DataKey, IcvBits, Protection, sending_key
from weft.model.ids import NodeId
from weft.model.sandbox import NodeFacts
from weft.network import nft
from weft.network.fragments import table
from weft.network.kernel_state import HOST, Link, Namespace, Route, Table, Tap
from weft.network.ownership import (
    CLEAR_MARK,
    ESP_DEVICE,
    ESP_MAC,
    ESP_MARK,
    ESP_SANDBOX,
    GUARD_TABLE,
    overlay_namespace,
)
from weft.network.underlay import vni_in

SALT_BYTES = 4
"""RFC 4106 section 4."""
_RESERVED_SPIS = 256
_FNV_OFFSET = 0x811C9DC5
_FNV_PRIME = 0x01000193


def socket_namespace(
    definition: NetworkDefinition, facts: NodeFacts, keys: tuple[DataKey, ...]
) -> str | None:
    """The namespace of the sockets of the network's VXLAN devices. None: the network's frames must
    not leave this host."""
    if not definition.encrypted:
        return HOST
    if not keys or facts.esp_engine is None:
        return None
    return ESP_SANDBOX if facts.esp_engine == "userspace" else HOST


def protection(overlays: Overlays, facts: NodeFacts) -> Protection | None:
    """The work of this host's ESP engine; None if no network here is encrypted, or there is no
    key."""
    sender = sending_key(overlays.keys)
    encrypted = [view for view in overlays.networks.values() if view.definition.encrypted]
    if sender is None or not encrypted:
        return None
    peers = sorted({
        (End(endpoint.vtep, endpoint.node), view.definition.icv_bits)
        for view in encrypted
        for endpoint in view.endpoints.values()
        if endpoint.node != facts.node
    })  # fmt: skip
    local = End(facts.data_path_address, facts.node)
    return Protection(
        local=local.address,
        port=overlays.data_path_port,
        mtu=facts.underlay_mtu,
        vnis=dict(
            sorted((s.vni, v.definition.icv_bits) for v in encrypted for s in v.definition.segments)
        ),
        outbound=tuple(association(sender, local, peer, icv) for peer, icv in peers),
        inbound=tuple(
            association(key, peer, local, icv) for peer, icv in peers for key in overlays.keys
        ),
    )


class End(NamedTuple):
    """One host of an association."""

    address: IPv4Address
    node: NodeId


def association(key: DataKey, source: End, destination: End, icv_bits: IcvBits) -> Association:
    """Both ends derive the same association. Its key is for one direction between two nodes, so
    that no two senders ever share a nonce, whatever their sequence numbers. A host that lost its
    disk and joined again is another node."""
    addresses = source.address.packed + destination.address.packed
    context = (
        addresses
        + key.tag.to_bytes(4, "big")
        + bytes([icv_bits])
        + f"{source.node} {destination.node}".encode()
    )
    return Association(
        spi=_spi(context),
        source=source.address,
        destination=destination.address,
        icv_bits=icv_bits,
        tag=key.tag,
        key=_derived(key.secret, b"weft esp" + context, len(key.secret) + SALT_BYTES),
    )


def _derived(secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF with SHA-256 and no salt (RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret)


def isolation(overlays: Overlays, facts: NodeFacts, marked: bool = True) -> Iterator[Namespace]:
    """The namespace or marks that keep encrypted and clear datagrams apart, for this host's
    engine. `marked`: what `is_marked` says."""
    if facts.esp_engine == "kernel":
        if marked:
            yield _marks(overlays, facts)
    elif facts.esp_engine == "userspace":
        encrypted = any(view.definition.encrypted for view in overlays.networks.values())
        if encrypted and sending_key(overlays.keys) is not None:
            yield _sandbox(facts)


def is_marked(overlays: Overlays, facts: NodeFacts, in_force: bool) -> bool:
    """Whether datagrams need marks on this host. `in_force`: whether the kernel's engine has
    policies, which it may have after the last encrypted network is gone."""
    encrypted = any(view.definition.encrypted for view in overlays.networks.values())
    return facts.esp_engine == "kernel" and (encrypted or in_force)


def marked_frames(definition: NetworkDefinition) -> Iterator[Namespace]:
    """The mark of the network's frames for other hosts, where the kernel encrypts. Those that need
    none get ESP with the short ICV."""
    mark = _mark_of(definition)
    if mark is not None:
        devices = ", ".join(f'"vxlan{i}"' for i in range(len(definition.segments)))
        rule = f"oifname {{ {devices} }} meta mark set {mark:#x}"
        chain = nft.base_chain("esp-frames", "filter", "postrouting", nft.FILTER, rule)
        yield Namespace(name=overlay_namespace(definition.id), tables=table(chain, "bridge"))


def _mark_of(definition: NetworkDefinition) -> int | None:
    if not definition.encrypted:
        return CLEAR_MARK
    return ESP_MARK + 1 if definition.icv_bits == 128 else None


def _sandbox(facts: NodeFacts) -> Namespace:
    """The userspace engine's namespace. To VXLAN it looks like the underlay: it has this host's
    address, and every other host is behind its only interface."""
    device = ESP_DEVICE
    own = IPv4Interface(f"{facts.data_path_address}/32")
    return Namespace(
        name=ESP_SANDBOX,
        links={
            device: Link(
                name=device,
                kind=Tap(),
                mtu=facts.underlay_mtu,
                mac=ESP_MAC,
                addresses=frozenset({own}),
            )
        },
        routes=frozenset({Route(destination=IPv4Network("0.0.0.0/0"), device=device)}),
        sysctls={"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.default.disable_ipv6": "1"},
    )


def _marks(overlays: Overlays, facts: NodeFacts) -> Namespace:
    """The marks that tell the kernel engine's policies which datagrams are plain, and which have
    the longer ICV."""
    definitions = [view.definition for view in overlays.networks.values()]
    marks = [
        (_vnis(d for d in definitions if _mark_of(d) == mark), mark)
        for mark in (CLEAR_MARK, ESP_MARK + 1)
    ]
    own, port = facts.data_path_address, overlays.data_path_port
    body = "\n".join(
        (
            nft.base_chain(
                "esp-in",
                "filter",
                "prerouting",
                nft.MANGLE,
                *_marking(f"ip daddr {own} udp dport {port}", marks),
            ),
            nft.base_chain(
                "esp-out",
                "route",
                "output",
                nft.MANGLE,
                *_marking(f"ip saddr {own} udp dport {port}", marks),
            ),
        )
    )
    return Namespace(name=HOST, tables={("ip", GUARD_TABLE): Table("ip", GUARD_TABLE, body)})


def _marking(datagram: str, marks: Iterable[tuple[list[Vni], int]]) -> Iterator[str]:
    for vnis, mark in marks:
        if vnis:
            yield f"{datagram} {vni_in(vnis)} meta mark set {mark:#x}"


def _vnis(definitions: Iterable[NetworkDefinition]) -> list[Vni]:
    return sorted(segment.vni for definition in definitions for segment in definition.segments)


def _spi(context: bytes) -> int:
    """FNV-1a of 32 bits, as in Docker Swarm, moved out of the reserved range."""
    value = _FNV_OFFSET
    for octet in context:
        value = (value ^ octet) * _FNV_PRIME & 0xFFFFFFFF
    return value if value >= _RESERVED_SPIS else value + _RESERVED_SPIS
