"""A table as nft reads it: the text between its braces."""

from collections.abc import Mapping
from ipaddress import IPv6Address

from weft.network import nft
from weft.network.kernel_state import Entry, Field, SetType, Table, Value
from weft.network.render import services

_VERDICT: tuple[Field, ...] = ("verdict",)


def text(table: Table) -> str:
    """Sets, the services' chains, the maps that lead to these chains, and the fixed part. Equal
    tables give equal text."""
    content = elements(table)
    sets = {name: _declared(name, kind.type, content[name]) for name, kind in table.sets.items()}
    leading = [name for name, kind in table.sets.items() if kind.type.value == _VERDICT]
    turns = (services.turn(*item) for item in table.services.items())
    chains = (nft.chain(turn.chain, turn.rule(table.start)) for turn in turns if turn)
    parts = (
        *(block for name, block in sets.items() if name not in leading),
        *chains,
        *(sets[n] for n in leading),
        table.body,
    )
    return "\n".join(part for part in parts if part)


def elements(table: Table) -> dict[str, dict[Entry, Entry]]:
    """All elements of the table's sets, by the set's name."""
    content = {name: dict(kind.elements) for name, kind in table.sets.items()}
    for item in table.services.items():
        for name, key, value in services.entries(*item):
            content[name][key] = value
    return content


def element(type_: SetType, key: Entry, value: Entry = ()) -> str:
    words = _joined(type_.key, key)
    return f"{words} : {_joined(type_.value, value)}" if value else words


def _joined(fields: tuple[Field, ...], entry: Entry) -> str:
    return " . ".join(_word(field, value) for field, value in zip(fields, entry, strict=True))


def _word(field: Field, value: Value) -> str:
    if field == "ipv6_bits" and isinstance(value, IPv6Address):
        return f"{int(value):#034x}"
    return f"{value:#010x}" if field == "mark" else str(value)


def _declared(name: str, type_: SetType, content: Mapping[Entry, Entry]) -> str:
    return nft.elements(
        f"{'map' if type_.value else 'set'} {name}",
        header(type_),
        [element(type_, *item) for item in content.items()],
    )


def header(type_: SetType) -> str:
    """The line that gives the type of a set's elements."""
    if type_.typeof:
        return f"typeof {type_.typeof}"
    value = f" : {' . '.join(type_.value)}" if type_.value else ""
    return f"type {' . '.join(type_.key)}{value}"
