"""Changes from one table to another with the same fixed part: element by element, and rule by rule
of the services' chains.

The kernel needs this order within a transaction: chains before the elements that lead to them,
removed elements before added ones with the same key, and removed chains last.
"""

from collections.abc import Iterator, Mapping

import msgspec

from weft.network.kernel_state import ElementSet, Entry, SetType, Table
from weft.network.render import services
from weft.network.render.services import Turn
from weft.network.render.table import element
from weft.network.service_table import Destination, Service, Services


class SetTurn(msgspec.Struct, frozen=True):
    """Makes the chain, or replaces its rule."""

    turn: Turn


class RemoveChain(msgspec.Struct, frozen=True):
    chain: str


class RemoveElements(msgspec.Struct, frozen=True):
    set: str
    type: SetType
    keys: tuple[Entry, ...]


class AddElements(msgspec.Struct, frozen=True):
    set: str
    type: SetType
    elements: tuple[tuple[Entry, Entry], ...]
    """Keys that the set does not have yet, with their values."""


Change = SetTurn | RemoveChain | RemoveElements | AddElements
Changes = tuple[Change, ...]


class Comparison:
    """Compares tables pair by pair. Many tables of a node share their content: each pair of
    contents is compared once. A comparison may be used only while the tables live."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], Changes] = {}

    def changes(self, old: Table, new: Table) -> Changes | None:
        """The changes that lead from `old` to `new`; empty if they are equal. None: the whole table
        must be written."""
        if (old.body, old.start) != (new.body, new.start) or not _same_types(old.sets, new.sets):
            return None
        pairs = [] if old.sets is new.sets else list(_differing(old.sets, new.sets))
        if old.services is new.services and not pairs:
            return ()
        identity = (
            id(old.services),
            id(new.services),
            *(id(part) for _, *two in pairs for part in two),
        )
        if identity not in self._known:
            self._known[identity] = _changes(old.services, new.services, new.sets, pairs)
        return self._known[identity]


def _differing(
    old: Mapping[str, ElementSet], new: Mapping[str, ElementSet]
) -> Iterator[tuple[str, ElementSet, ElementSet]]:
    """Sets that are not the same object."""
    return ((name, old[name], kind) for name, kind in new.items() if old[name] is not kind)


def _same_types(old: Mapping[str, ElementSet], new: Mapping[str, ElementSet]) -> bool:
    return old is new or (
        old.keys() == new.keys() and all(old[name].type == new[name].type for name in new)
    )


def _changes(
    old: Services,
    new: Services,
    sets: Mapping[str, ElementSet],
    pairs: list[tuple[str, ElementSet, ElementSet]],
) -> Changes:
    gone: dict[str, list[Entry]] = {}
    come: dict[str, list[tuple[Entry, Entry]]] = {}
    made, lost = list[Change](), list[Change]()

    def compare(name: str, before: Mapping[Entry, Entry], after: Mapping[Entry, Entry]) -> None:
        gone.setdefault(name, []).extend(
            key for key, value in before.items() if after.get(key) != value
        )
        come.setdefault(name, []).extend(
            (key, value) for key, value in after.items() if before.get(key) != value
        )

    for name, one, other in pairs:
        compare(name, one.elements, other.elements)
    for destination in dict.fromkeys((*old, *new)):
        before, after = old.get(destination), new.get(destination)
        if before is after:
            continue
        have, want = _content(destination, before), _content(destination, after)
        for name in dict.fromkeys((*have, *want)):
            compare(name, have.get(name, {}), want.get(name, {}))
        first, last = (services.turn(destination, s) if s else None for s in (before, after))
        if last is not None and last != first:
            made.append(SetTurn(last))
        if last is None and first is not None:
            lost.append(RemoveChain(first.chain))
    removed = (
        RemoveElements(name, sets[name].type, tuple(keys)) for name, keys in gone.items() if keys
    )
    added = (
        AddElements(name, sets[name].type, tuple(entries))
        for name, entries in come.items()
        if entries
    )
    return (*made, *removed, *added, *lost)


def _content(destination: Destination, service: Service | None) -> dict[str, dict[Entry, Entry]]:
    """The service's elements by set."""
    found: dict[str, dict[Entry, Entry]] = {}
    for name, key, value in services.entries(destination, service) if service else ():
        found.setdefault(name, {})[key] = value
    return found


# --- as nft commands


def commands(table: Table, changes: Changes) -> Iterator[str]:
    """The changes as a person would type them; one transaction."""
    head = f"{table.family} {table.name}"
    for change in changes:
        match change:
            case SetTurn(turn):
                yield f"add chain {head} {turn.chain}"
                yield f"flush chain {head} {turn.chain}"
                yield f"add rule {head} {turn.chain} {turn.rule(table.start)}"
            case RemoveChain(chain):
                yield f"delete chain {head} {chain}"
            case RemoveElements(name, type_, keys):
                words = ", ".join(element(type_, key) for key in keys)
                yield f"delete element {head} {name} {{ {words} }}"
            case AddElements(name, type_, entries):
                words = ", ".join(element(type_, *entry) for entry in entries)
                yield f"add element {head} {name} {{ {words} }}"
