"""The JSON of generic resources."""

from collections.abc import Iterable

from weft.api.schema.common import Count, Json, Wire
from weft.errors import InvalidArgument
from weft.model.generic import GenericResource


class NamedWire(Wire, frozen=True):
    kind: str = ""
    value: str = ""


class DiscreteWire(Wire, frozen=True):
    kind: str = ""
    value: Count = 0


class GenericWire(Wire, frozen=True):
    named_resource_spec: NamedWire | None = None
    discrete_resource_spec: DiscreteWire | None = None


def reserved_from(wires: Iterable[GenericWire]) -> tuple[GenericResource, ...]:
    """What a service reserves. Raises `InvalidArgument` with Docker Swarm's text for anything but
    an amount."""
    found = []
    for wire in wires:
        amount, named = wire.discrete_resource_spec, wire.named_resource_spec
        if amount is None or named is not None:
            kind = named.kind if named is not None else ""
            raise InvalidArgument(f"invalid argument for resource {kind}")
        found.append(GenericResource(amount.kind, amount.value))
    return tuple(found)


def generic_json(resources: Iterable[GenericResource]) -> list[Json]:
    return [
        {"NamedResourceSpec": {"Kind": resource.kind, "Value": resource.name}}
        if resource.name
        else {"DiscreteResourceSpec": {"Kind": resource.kind, "Value": resource.amount}}
        for resource in resources
    ]
