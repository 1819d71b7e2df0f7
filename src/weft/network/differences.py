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


class Difference(NamedTuple):
    how: How
    what: str

    @property
    def cause(self) -> str:
        return WORDS[self.how]


def difference(operation: Operation, names: Mapping[str, str]) -> Difference:
    """`names`: of networks, by the names of their namespaces."""
    where = _place(operation.namespace, names)
    match operation:
        case op.AddNamespace(namespace):
            return Difference("missing", f"network namespace {_named(namespace, names)}")
        case op.RemoveNamespace(namespace):
            return Difference("foreign", f"network namespace {_named(namespace, names)}")
        case op.AddLink(link=link):
            return Difference("missing", f"link {link.name} {where}")
        case op.RemoveLink(name=name):
            return Difference("foreign", f"link {name} {where}")
        case op.SetLink(name=name):
            return Difference("wrong", f"link {name} {where} ({_settings(operation)})")
        case op.AddAddress(device=device, address=address):
            return Difference("missing", f"address {address} of {device} {where}")
        case op.RemoveAddress(device=device, address=address):
            return Difference("foreign", f"address {address} of {device} {where}")
        case op.SetSysctl(key=key, value=value):
            return Difference("wrong", f"sysctl {key} {where} (should be {value})")
        case op.ReplaceTable(table=table) | op.ChangeTable(table=table):
            return Difference("wrong", f"nftables table {table.family} {table.name} {where}")
        case op.RemoveTable(family=family, name=name):
            return Difference("foreign", f"nftables table {family} {name} {where}")
    return _entry(operation, where)


def _entry(operation: Operation, where: str) -> Difference:
    match operation:
        case op.AddNeighbour(neighbour=n):
            return Difference(
                "missing", f"neighbour entry {n.address} at {n.mac} on {n.device} {where}"
            )
        case op.RemoveNeighbour(neighbour=n):
            return Difference(
                "foreign", f"neighbour entry {n.address} at {n.mac} on {n.device} {where}"
            )
        case op.AddForwarding(entry=e):
            return Difference("missing", f"forwarding entry {e.mac}{_to(e.vtep)} on {e.device} {where}")  # fmt: skip
        case op.RemoveForwarding(entry=e):
            return Difference("foreign", f"forwarding entry {e.mac}{_to(e.vtep)} on {e.device} {where}")  # fmt: skip
        case op.AddRoute(route=route):
            return Difference("missing", f"route to {route.destination} by {route.device} {where}")
        case op.RemoveRoute(route=route):
            return Difference("foreign", f"route to {route.destination} by {route.device} {where}")
        case op.AddRule(rule=rule):
            return Difference("missing", f"policy rule {rule.priority} {where}")
        case op.RemoveRule(rule=rule):
            return Difference("foreign", f"policy rule {rule.priority} {where}")
    return Difference("wrong", str(operation))


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
