"""Writes nftables text: sets, maps and chains, in a form that nft 1.0.6 and later accept. Equal
input gives equal text.

Traps of nft 1.0.6 that the rest of the package must avoid: an empty `elements = { }` is an error;
`priority dstnat` is refused in the output hook (its number is -100); a rule must end its line
before a closing brace; `dnat ip to a:p` needs a match on the layer-4 protocol in the same rule; a
number cannot be part of a key (`ip daddr . 0`), but `numgen inc mod 1` can; and a map whose values
have a port must have the type of one protocol's port, or nft refuses the second table that names
it.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

DSTNAT = -100
SRCNAT = 100
MANGLE = -150
RAW = -300
FILTER = 0


def chain(name: str, *rules: str) -> str:
    """A chain that other chains jump to."""
    return _block(f"chain {name}", rules)


def base_chain(
    name: str, kind: str, hook: str, priority: int, *rules: str, device: str | None = None
) -> str:
    """A chain that the kernel calls at `hook`. `kind`: filter, nat or route; `device`: for family
    netdev."""
    on = f' device "{device}"' if device else ""
    return _block(
        f"chain {name}",
        (f"type {kind} hook {hook}{on} priority {priority}; policy accept;", *rules),
    )


def elements(head: str, header: str, content: list[str]) -> str:
    """A set or map with its elements. `head`: its kind and name; `header`: the type of its
    elements."""
    lines = [f"{header};"]
    if content:
        lines.append(f"elements = {{ {', '.join(content)} }}")
    return _block(head, lines)


class Object(NamedTuple):
    """An object of a table."""

    kind: str
    """`chain`, `set` or `map`."""
    name: str
    type: str
    """The type of a set's or map's elements, as written."""


_OBJECT = re.compile(r"^[ \t]*(chain|set|map) (\S+) \{\s*(?:type(?:of)? ([^;\n]+))?", re.MULTILINE)


def objects(text: str) -> frozenset[Object]:
    """The objects in a table; `text`: as written here or as nft lists it."""
    found = _OBJECT.findall(text)
    return frozenset(
        Object(kind, name, "" if kind == "chain" else type_.strip()) for kind, name, type_ in found
    )


def _block(head: str, lines: Iterable[str]) -> str:
    return "\n".join((f"  {head} {{", *(f"    {line}" for line in lines), "  }"))
