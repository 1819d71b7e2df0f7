"""rtnetlink policy routing rules (IPv4) that look up a table: encodes requests, decodes dumps. Pure
functions. `fib_rules.h`."""

import socket
import struct

from weft.linux.netlink.attributes import attribute, decode, text, to_text, to_u32, u8, u32
from weft.linux.netlink.message import NLM_F_CREATE, NLM_F_EXCL, Request
from weft.model.addresses import Port
from weft.network.kernel_state import Rule

RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
_FR_ACT_TO_TBL = 1
_FRA_DST, _FRA_SRC, _FRA_IIFNAME, _FRA_PRIORITY, _FRA_FWMARK, _FRA_FLOW, _FRA_SUPPRESS_PREFIXLEN = (
    1,
    2,
    3,
    6,
    10,
    11,
    14,
)
_FRA_TABLE, _FRA_FWMASK, _FRA_OIFNAME, _FRA_PAD, _FRA_L3MDEV, _FRA_PROTOCOL, _FRA_IP_PROTO, _FRA_SPORT_RANGE = (
    15, 16, 17, 18, 19, 21, 22, 23,
)  # fmt: skip
_FRA_SPORT_MASK = 28
"""Since Linux 6.15 the kernel reports this attribute for every rule with a single source port."""
_KNOWN = frozenset((
    _FRA_IIFNAME, _FRA_PRIORITY, _FRA_FWMARK, _FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE, _FRA_FWMASK, _FRA_PAD, _FRA_PROTOCOL,
    _FRA_IP_PROTO, _FRA_SPORT_RANGE, _FRA_SPORT_MASK,
))  # fmt: skip
"""Attributes that a rule like ours may have."""
_NO_SUPPRESSION = 0xFFFFFFFF
_FIB_RULE_INVERT = 2
_HEADER = struct.Struct("=BBBBBBBBI")
"""Family, destination's and source's prefix length, TOS, table, two reserved, action, flags."""
_PORTS = struct.Struct("=HH")
_BUILT_IN = frozenset(((0, 255), (32766, 254), (32767, 253)))
"""Priority and table of the three rules that every namespace has."""


def add_rule(rule: Rule) -> Request:
    return Request(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, _body(rule))


def remove_rule(rule: Rule) -> Request:
    return Request(RTM_DELRULE, 0, _body(rule))


def dump_rules() -> tuple[int, bytes]:
    return RTM_GETRULE, _HEADER.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)


def decode_rule(body: bytes) -> Rule | None:
    """None for one of the three built-in rules, or a rule with selectors or an action that a `Rule`
    cannot express."""
    _, _, _, tos, table, _, _, action, flags = _HEADER.unpack_from(body)
    found = decode(body, _HEADER.size)
    foreign = (
        action != _FR_ACT_TO_TBL or tos or flags & _FIB_RULE_INVERT or not found.keys() <= _KNOWN
    )
    if foreign or to_u32(found.get(_FRA_SUPPRESS_PREFIXLEN, b"\xff" * 4)) != _NO_SUPPRESSION:
        return None
    if found.get(_FRA_SPORT_MASK, b"\xff\xff") != b"\xff\xff":
        return None
    rule = Rule(
        priority=to_u32(found.get(_FRA_PRIORITY, bytes(4))),
        table=to_u32(found[_FRA_TABLE]) if _FRA_TABLE in found else table,
        mark=to_u32(found.get(_FRA_FWMARK, bytes(4))),
        mask=to_u32(found.get(_FRA_FWMASK, bytes(4))),
        input_device=to_text(found[_FRA_IIFNAME]) if _FRA_IIFNAME in found else None,
        protocol=found[_FRA_IP_PROTO][0] if _FRA_IP_PROTO in found else None,
        source_ports=_range(found.get(_FRA_SPORT_RANGE)),
    )
    return None if _is_built_in(rule) else rule


def _range(found: bytes | None) -> tuple[Port, Port] | None:
    if found is None:
        return None
    first, last = _PORTS.unpack(found)
    return first, last


def _is_built_in(rule: Rule) -> bool:
    selects = (
        rule.mask or rule.input_device or rule.protocol is not None or rule.source_ports is not None
    )
    return not selects and (rule.priority, rule.table) in _BUILT_IN


def _body(rule: Rule) -> bytes:
    table = rule.table if rule.table < 256 else 0
    body = _HEADER.pack(socket.AF_INET, 0, 0, 0, table, 0, 0, _FR_ACT_TO_TBL, 0)
    body += u32(_FRA_PRIORITY, rule.priority) + u32(_FRA_TABLE, rule.table)
    if rule.mask:
        body += u32(_FRA_FWMARK, rule.mark) + u32(_FRA_FWMASK, rule.mask)
    body += text(_FRA_IIFNAME, rule.input_device) if rule.input_device else b""
    body += u8(_FRA_IP_PROTO, rule.protocol) if rule.protocol is not None else b""
    if rule.source_ports is not None:
        body += attribute(_FRA_SPORT_RANGE, _PORTS.pack(*rule.source_ports))
    return body
