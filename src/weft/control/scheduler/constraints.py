"""Placement constraints: `node.role == manager`, `node.labels.zone != east`. An expression is
parsed once and matched against many nodes.

Keys and values are compared without regard to case, label names exactly, as in Docker Swarm. An
unknown key is no error: no node satisfies it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from types import MappingProxyType

import msgspec

from weft.errors import InvalidArgument, clip
from weft.model.node import Node

OPERATORS = ("==", "!=")
MAX_EXPRESSION = 1024
"""Characters; far more than any label of a real node needs."""
_KEY = re.compile(r"[a-z_][a-z0-9\-_.]+", re.IGNORECASE)
_VALUE = re.compile(r"[a-z0-9:\-_\s.*()?+\[\]\\^$|/]+", re.IGNORECASE)

ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"amd64": "x86_64", "arm64": "aarch64", "386": "i386", "i686": "i386"}
)
"""Architecture names that image makers use, and those that `uname` gives."""


def architecture(name: str) -> str:
    return ARCHITECTURES.get(name.lower(), name.lower())


class Constraint(msgspec.Struct, frozen=True):
    key: str
    equal: bool
    """True for `==`, False for `!=`."""
    value: str

    def __str__(self) -> str:
        return f"{self.key}{'==' if self.equal else '!='}{self.value}"

    def matches(self, node: Node) -> bool:
        lowered = self.key.lower()
        for prefix, labels in _LABELS.items():
            if lowered.startswith(prefix) and len(lowered) > len(prefix):
                return self._compare(labels(node).get(self.key[len(prefix) :], ""), self.value)
        if lowered == "node.ip":
            return self._compare_address(node.status.address)
        if lowered == "node.platform.arch":
            return self._compare(
                architecture(node.description.architecture), architecture(self.value)
            )
        attribute = _ATTRIBUTES.get(lowered)
        return attribute is not None and self._compare(attribute(node), self.value)

    def _compare(self, actual: str, value: str) -> bool:
        return (actual.lower() == value.lower()) == self.equal

    def _compare_address(self, actual: str) -> bool:
        """Compares with an address or a subnet. No node satisfies a value that is neither."""
        try:
            return (IPv4Address(actual) in IPv4Network(self.value, strict=False)) == self.equal
        except ValueError:
            return False


_ATTRIBUTES: Mapping[str, Callable[[Node], str]] = MappingProxyType({
    "node.id": lambda node: node.id,
    "node.hostname": lambda node: node.description.hostname,
    "node.role": lambda node: node.spec.role,
    "node.platform.os": lambda node: node.description.os,
})  # fmt: skip
_LABELS: Mapping[str, Callable[[Node], Mapping[str, str]]] = MappingProxyType({
    "node.labels.": lambda node: node.spec.labels,
    "engine.labels.": lambda node: node.description.engine_labels,
})  # fmt: skip


def label(node: Node, key: str) -> str:
    """The value of a label named as in a constraint (`node.labels.zone`); empty if the node has no
    such label."""
    for prefix, labels in _LABELS.items():
        if key.lower().startswith(prefix):
            return labels(node).get(key[len(prefix) :], "")
    return ""


def parse(expressions: Iterable[str]) -> tuple[Constraint, ...]:
    """Raises `InvalidArgument` with Docker Swarm's text."""
    return tuple(_parse(expression) for expression in expressions)


def _parse(expression: str) -> Constraint:
    if len(expression) > MAX_EXPRESSION:
        raise InvalidArgument(
            f"constraint {clip(expression)!r} is longer than {MAX_EXPRESSION} characters"
        )
    for operator in OPERATORS:
        key, found, value = expression.partition(operator)
        if found:
            key, value = key.strip(), value.strip()
            if not _KEY.fullmatch(key):
                raise InvalidArgument(f"key '{key}' is invalid")
            if not _VALUE.fullmatch(value):
                raise InvalidArgument(f"value '{value}' is invalid")
            return Constraint(key, operator == "==", value)
    raise InvalidArgument(f"constraint expected one operator from {', '.join(OPERATORS)}")


def satisfied(constraints: Iterable[Constraint], node: Node) -> bool:
    return all(constraint.matches(node) for constraint in constraints)
