"""What is wrong with a kernel's network, in words: each operation that would mend it says what is
missing, what is there and should not be, or what is not as it should be."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from weft.network import operations as op
from weft.network.kernel_state import HOST
from weft.network.operations import Operation

How = Literal["missing", "foreign", "wrong"]
WORDS: Mapping[How, str] = {
    "missing": "it is missing",
    "foreign": "it should not be there",
    "wrong": "it is not as it should be",
}

_MISSING = (
    op.AddNamespace, op.AddLink, op.AddAddress, op.AddNeighbour, op.AddForwarding, op.AddRoute,
    op.AddRule,
)  # fmt: skip
_FOREIGN = (
    op.RemoveNamespace, op.RemoveLink, op.RemoveAddress, op.RemoveNeighbour, op.RemoveForwarding,
    op.RemoveRoute, op.RemoveRule, op.RemoveTable,
)  # fmt: skip


class Difference(NamedTuple):
    how: How
    what: str

    @property
    def cause(self) -> str:
        return WORDS[self.how]


def difference(operation: Operation, names: Mapping[str, str]) -> Difference:
    """`names`: of networks, by the names of their namespaces."""
    return Difference(_how(operation), _what(operation, names))


def _how(operation: Operation) -> How:
    if isinstance(operation, _MISSING):
        return "missing"
    return "foreign" if isinstance(operation, _FOREIGN) else "wrong"


def _what(operation: Operation, names: Mapping[str, str]) -> str:
    where = _place(operation.namespace, names)
    match operation:
        case op.AddNamespace(namespace) | op.RemoveNamespace(namespace):
            return f"network namespace {_named(namespace, names)}"
        case op.AddLink(link=link):
            return f"link {link.name} {where}"
        case op.RemoveLink(name=name):
            return f"link {name} {where}"
        case op.SetLink(name=name):
            return f"link {name} {where} ({_settings(operation)})"
        case op.AddAddress() | op.RemoveAddress():
            return f"address {operation.address} of {operation.device} {where}"
        case op.AddNeighbour(neighbour=n) | op.RemoveNeighbour(neighbour=n):
            return f"neighbour entry {n.address} at {n.mac} on {n.device} {where}"
        case op.AddForwarding(entry=e) | op.RemoveForwarding(entry=e):
            return f"forwarding entry {e.mac}{_to(e.vtep)} on {e.device} {where}"
        case op.AddRoute(route=route) | op.RemoveRoute(route=route):
            return f"route to {route.destination} by {route.device} {where}"
        case op.AddRule(rule=rule) | op.RemoveRule(rule=rule):
            return f"policy rule {rule.priority} {where}"
        case op.SetSysctl(key=key, value=value):
            return f"sysctl {key} {where} (should be {value})"
        case op.ReplaceTable(table=table) | op.ChangeTable(table=table):
            return f"nftables table {table.family} {table.name} {where}"
        case op.RemoveTable(family=family, name=name):
            return f"nftables table {family} {name} {where}"
    return str(operation)


def _to(vtep: object) -> str:
    return f" to {vtep}" if vtep is not None else ""


def _place(namespace: str, names: Mapping[str, str]) -> str:
    return "of the host" if namespace == HOST else f"in {_named(namespace, names)}"


def _named(namespace: str, names: Mapping[str, str]) -> str:
    return f"{namespace} (network {names[namespace]})" if namespace in names else namespace


def _settings(operation: op.SetLink) -> str:
    words = {
        "MTU": operation.mtu,
        "MAC": operation.mac,
        "bridge": operation.master,
        "bridge port": "settings" if operation.port is not None else None,
        "state": None if operation.up is None else "up" if operation.up else "down",
    }
    return ", ".join(f"{word} {value}" for word, value in words.items() if value is not None)
