"""The tables of docs/compatibility.md that the code knows: fields of requests, routes, versions.
`scripts/compatibility` writes them into the page; a test compares them with what the page has.

A table stands between `<!-- name: made by scripts/compatibility -->` and `<!-- end -->`.
"""

import importlib
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec

import weft.api
import weft.api.schema
from weft.api import versions
from weft.api.call import Handler
from weft.api.routes import ROUTES
from weft.api.schema.common import Wire
from weft.api.unsupported import empty, missing, refuse

PATH = Path(__file__).parents[2] / "docs" / "compatibility.md"
_OPENING = re.compile(r"(<!-- [a-z]+: made by scripts/compatibility -->\n)")
END = "<!-- end -->"
_REQUESTS: Mapping[str, str] = {
    "ServiceWire": "a service",
    "SpecWire": "a swarm",
    "InitWire": "`swarm init`",
    "JoinWire": "`swarm join`",
    "UnlockWire": "`swarm unlock`",
    "NodeWire": "a node",
    "NetworkWire": "a network",
    "ConnectWire": "`network connect`",
    "DisconnectWire": "`network disconnect`",
    "VolumeWire": "a volume",
    "DataWire": "a secret or config",
    "NewContainerWire": "a container",
    "UpdateContainerWire": "`update` of a container",
    "ExecWire": "`exec`",
    "ExecStartWire": "the start of `exec`",
    "AuthWire": "`/auth`",
    "CaptureWire": "`/weft/capture`",
    "FlowsWire": "`/weft/flows`",
    "KeysWire": "`/weft/keys/update`",
    "TopWire": "`/weft/top`",
    "TraceWire": "`/weft/trace`",
}
"""What the bodies describe, where the struct's name does not say it."""


def tables() -> Mapping[str, str]:
    return {"fields": _fields(), "routes": _routes(), "since": _since()}


def with_tables(page: str) -> str:
    """The page with its tables as they should be."""
    made = tables()
    before, *parts = _OPENING.split(page)
    for opening, rest in zip(parts[::2], parts[1::2], strict=True):
        name = opening.split()[1].rstrip(":")
        before += opening + made[name] + END + rest.partition(END)[2]
    return before


# --- fields


def wires() -> list[type[Wire]]:
    """The structs that requests are read into, without those that only share their fields."""
    for package in (weft.api, weft.api.schema):
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
    return [wire for wire in _derived(Wire) if not wire.__subclasses__()]


def _derived(base: type[Wire]) -> list[type[Wire]]:
    return [one for wire in base.__subclasses__() for one in (wire, *_derived(wire))]


def inner(type_: Any) -> type[Wire] | None:
    """The struct in a field's type, if there is one."""
    for one in (type_, *get_args(type_)):
        if isinstance(one, type) and issubclass(one, Wire):
            return one
        if get_args(one) and one is not type_ and (found := inner(one)):
            return found
    return None


def structs(wire: type[Wire], path: str = "") -> Iterator[tuple[str, type[Wire]]]:
    """A struct and those in it, each with its path."""
    yield path, wire
    for field in msgspec.structs.fields(wire):
        if (below := inner(field.type)) is not None:
            many = "[]" if get_origin(field.type) is tuple or "tuple" in str(field.type) else ""
            yield from structs(below, f"{path}.{field.encode_name}{many}".removeprefix("."))


def _fields() -> str:
    found = wires()
    nested = {below for wire in found for _, below in structs(wire) if below is not wire}
    roots = sorted((wire for wire in found if wire not in nested), key=_request)
    rows = [
        (
            f"{_request(root)}" + (f": `{path}`" if path else ""),
            _names(field.encode_name for field in msgspec.structs.fields(wire)),
            _names(wire.lacks),
        )
        for root in roots
        for path, wire in structs(root)
    ]
    return _table(("request", "read", "refused"), rows)


def _request(wire: type[Wire]) -> str:
    return _REQUESTS.get(wire.__name__, wire.__name__.removesuffix("Wire"))


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


# --- routes

_KINDS = {
    refuse("").__qualname__: "refused",
    empty([]).__qualname__: "empty",
    missing("").__qualname__: "not found",
}


def _routes() -> str:
    answers: dict[str, list[str]] = {}
    for method, path, handler in ROUTES:
        answers.setdefault(path.replace("{id:.+}", "{id}"), []).append(f"{method} {kind(handler)}")
    return _table(("route", "answers"), ((f"`{p}`", ", ".join(a)) for p, a in answers.items()))


def kind(handler: Handler) -> str:
    return _KINDS.get(handler.__qualname__, "answered")


# --- versions


def _since() -> str:
    parameters = [
        (since, f"`{name}` of `{route}`")
        for route, since_by in versions.PARAMETERS.items()
        for name, since in since_by.items()
    ]
    fields = [
        (since, f"`{path}` of {_REQUESTS.get(wire, wire.removesuffix('Wire'))}")
        for wire, since_by in versions.FIELDS.items()
        for path, since in since_by.items()
    ]
    rows = sorted({*parameters, *fields})
    return _table(("since", "what"), ((".".join(map(str, since)), what) for since, what in rows))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"\n{text}\n\n"


def main() -> int:
    page = PATH.read_text()
    made = with_tables(page)
    if made == page:
        print(f"{PATH.name} is up to date")
    else:
        PATH.write_text(made)
        print(f"{PATH.name} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
