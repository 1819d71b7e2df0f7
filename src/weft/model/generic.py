"""Generic resources: things of a node that the swarm only counts, such as graphics processors.

A node's administrator says what the node has (`node-generic-resources`), each kind either as an
amount or as named pieces. A service reserves an amount of a kind; the scheduler gives each of its
tasks an amount, or as many named pieces.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from weft.errors import InvalidArgument, clip
from weft.model.numbers import decimal

MAX_RESOURCES = 256
"""Most resources of a node, and kinds that a service reserves."""
MAX_TEXT = 128
"""Characters of a kind, and of a name."""
_VARIABLE = "DOCKER_RESOURCE_"

Taken = Mapping[tuple[str, str], int]
"""Amounts by kind and name; the name is empty for a kind that is an amount."""


class GenericResource(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    kind: str
    amount: int = 1
    """Of a named piece: 1."""
    name: str = ""
    """Empty for an amount."""

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.name


def resources_from(words: Sequence[str]) -> tuple[GenericResource, ...]:
    """What a node has, from `KIND=AMOUNT` or one `KIND=NAME` for each piece. Raises
    `InvalidArgument`."""
    values: dict[str, list[str]] = {}
    for word in words:
        kind, separator, value = (part.strip() for part in word.partition("="))
        if not separator or not is_plain(kind) or not is_plain(value):
            raise InvalidArgument(
                f"could not parse GenericResource: incorrect term {clip(word)}, missing '=' or"
                " malformed expression"
            )
        values.setdefault(kind, []).append(value)
    if sum(map(len, values.values())) > MAX_RESOURCES:
        raise InvalidArgument(
            f"could not parse GenericResource: more than {MAX_RESOURCES} resources"
        )
    return tuple(resource for kind, found in values.items() for resource in _of_kind(kind, found))


def _of_kind(kind: str, values: Sequence[str]) -> Iterable[GenericResource]:
    amount = decimal(values[0])
    if len(values) == 1 and amount is not None:
        return [GenericResource(kind, amount)]
    is_number = any(decimal(value.lstrip("+-")) is not None for value in values)
    if is_number or len(set(values)) < len(values):
        raise InvalidArgument(
            f"could not parse GenericResource: malformed expression '{kind}={','.join(values)}':"
            " it must be one number, or different names"
        )
    return [GenericResource(kind, name=value) for value in values]


def is_plain(text: str) -> bool:
    """Whether the text can be a kind or a name: it stands in an environment variable, which has
    names with commas between them."""
    return (
        0 < len(text) <= MAX_TEXT
        and text.isprintable()
        and not any(c in "=," or c.isspace() for c in text)
    )


def claim(
    has: Sequence[GenericResource], taken: Taken, wanted: Sequence[GenericResource]
) -> tuple[GenericResource, ...] | None:
    """What a task gets that wants these amounts, from a node that has `has`; None: there is not
    enough."""
    claimed: list[GenericResource] = []
    for want in wanted:
        here = [resource for resource in has if resource.kind == want.kind]
        named = [resource for resource in here if resource.name]
        if named:
            free = [resource for resource in named if not taken.get(resource.key)]
            if len(free) < want.amount:
                return None
            claimed += free[: want.amount]
        elif sum(resource.amount for resource in here) - taken.get(want.key, 0) < want.amount:
            return None
        elif want.amount:
            claimed.append(want)
    return tuple(claimed)


def variables(assigned: Sequence[GenericResource]) -> tuple[str, ...]:
    """The environment variables that tell a container what it was given:
    `DOCKER_RESOURCE_GPU=UUID1,UUID2`."""
    values: dict[str, list[str]] = {}
    for resource in assigned:
        name = f"{_VARIABLE}{resource.kind.upper()}"
        values.setdefault(name, []).append(resource.name or str(resource.amount))
    return tuple(f"{name}={','.join(found)}" for name, found in values.items())
