"""Text of nftables tables: sets, maps and chains, in a form that nft 1.0.6 and later accept and that is the same for equal input.

Traps of nft 1.0.6 that the rest of the package has to know: an empty `elements = { }` is an error; `priority dstnat` is refused
in the output hook (its number is -100); a rule must end its line before a closing brace; `dnat ip to a:p` needs a match on the
layer-4 protocol in the same rule; `numgen inc mod 1` is pointless, so a single backend is written out.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

DSTNAT = -100
SRCNAT = 100
MANGLE = -150
RAW = -300
FILTER = 0


def chain(name: str, *rules: str) -> str:
    """A chain that others jump to."""
    return _block(f"chain {name}", rules)


def base_chain(name: str, kind: str, hook: str, priority: int, *rules: str, device: str | None = None) -> str:
    """A chain that the kernel calls at `hook`. `kind`: filter, nat or route; `device`: for family netdev."""
    on = f' device "{device}"' if device else ""
    return _block(f"chain {name}", (f"type {kind} hook {hook}{on} priority {priority}; policy accept;", *rules))


def named_set(name: str, type_: str, elements: Iterable[str]) -> str:
    return _elements(f"set {name}", type_, list(elements))


def named_map(name: str, type_: str, elements: Mapping[str, str]) -> str:
    return _elements(f"map {name}", type_, [f"{key} : {value}" for key, value in elements.items()])


def dnat(targets: Sequence[str], match: str = "", comment: str = "") -> list[str]:
    """Rules that send each new connection to the next of the targets, `address` or `address . port`; not empty.

    A packet that is in the chain while the chain is written anew goes on with the old rules, but the map inside a rule is emptied
    beneath it as soon as the new ones hold (Linux 6.18: `nft_map_deactivate`). The second rule is for that packet."""
    destinations = [targets[0].replace(" . ", ":")]
    if len(targets) > 1:
        entries = ", ".join(f"{i} : {target}" for i, target in enumerate(targets))
        destinations = [f"numgen inc mod {len(targets)} map {{ {entries} }}", *destinations]
    head, tail = f"{match} " if match else "", f' comment "{comment}"' if comment else ""
    return [f"{head}dnat ip to {destination}{tail}" for destination in destinations]


def rotated(targets: Sequence[str], start: int) -> list[str]:
    """The same circle from another beginning: callers that make few connections each must not all begin with the first."""
    cut = start % len(targets) if targets else 0
    return [*targets[cut:], *targets[:cut]]


class Object(NamedTuple):
    """Of a table."""

    kind: str
    """`chain`, `set` or `map`."""
    name: str
    type: str
    """Of a set's or map's elements, as it is written."""


_OBJECT = re.compile(r"^[ \t]*(chain|set|map) (\S+) \{\s*(?:type ([^;\n]+))?", re.MULTILINE)


def objects(text: str) -> frozenset[Object]:
    """What is in a table; `text` as it is written here or as nft lists it."""
    found = _OBJECT.findall(text)
    return frozenset(Object(kind, name, "" if kind == "chain" else type_.strip()) for kind, name, type_ in found)


def _elements(head: str, type_: str, elements: list[str]) -> str:
    lines = [f"type {type_};"]
    if elements:
        lines.append(f"elements = {{ {', '.join(elements)} }}")
    return _block(head, lines)


def _block(head: str, lines: Iterable[str]) -> str:
    return "\n".join((f"  {head} {{", *(f"    {line}" for line in lines), "  }"))
