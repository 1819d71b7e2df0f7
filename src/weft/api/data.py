"""Secrets and configs: list, create, inspect, update labels, remove. Each handler is made for one of
the two kinds."""

from collections.abc import Mapping
from typing import cast

import msgspec
from aiohttp import web

from weft.api import filters
from weft.api.call import Call, Handler, answer, nothing
from weft.api.filters import swarm_label_matches
from weft.api.listing import answer_list
from weft.api.schema.data import DataWire, data_json
from weft.control.requests.secrets import check_driver
from weft.errors import InvalidArgument
from weft.model import lookup
from weft.model.secret import Config, DataKind, DataSpec, Secret
from weft.model.state import ClusterState

FILTERS = ("names", "name", "id", "label")
TEMPLATES_SINCE = (1, 37)

MAKERS: filters.Makers[Secret | Config] = {
    "names": lambda value: lambda found: found.name == value,
    "name": lambda value: lambda found: found.name.startswith(value),
    "id": lambda value: lambda found: found.id.startswith(value),
    "label": lambda value: lambda found: swarm_label_matches(found.spec.labels, value),
}


def _table(state: ClusterState, kind: DataKind) -> Mapping[str, Secret | Config]:
    return cast(Mapping[str, Secret | Config], state.tables[kind])


def _found(call: Call, kind: DataKind) -> Secret | Config:
    return lookup.find(kind, call.id, _table(call.swarm.state, kind))


def listing(kind: DataKind) -> Handler:
    async def handler(call: Call) -> web.Response:
        state = call.swarm.state
        test = filters.compile_test(call.filters(FILTERS), MAKERS)
        return await answer_list(_table(state, kind).values(), test, data_json)

    return handler


def inspect(kind: DataKind) -> Handler:
    async def handler(call: Call) -> web.Response:
        return answer(data_json(_found(call, kind)))

    return handler


def create(kind: DataKind) -> Handler:
    async def handler(call: Call) -> web.Response:
        swarm = call.swarm
        wire = await _body(call, kind)
        spec = DataSpec(name=wire.name, labels=wire.labels, templated=wire.templating is not None)
        return answer({"ID": await swarm.create_data(kind, spec, wire.data)}, 201)

    return handler


def update(kind: DataKind) -> Handler:
    async def handler(call: Call) -> web.Response:
        swarm, current, version = call.swarm, _found(call, kind), call.number("version")
        wire = await _body(call, kind)
        templated = current.spec.templated or wire.templating is not None
        spec = msgspec.structs.replace(
            current.spec, name=wire.name, labels=wire.labels, templated=templated
        )
        await swarm.update_data(kind, current.id, version, spec, wire.data)
        return nothing(200)

    return handler


def remove(kind: DataKind) -> Handler:
    async def handler(call: Call) -> web.Response:
        swarm = call.swarm
        await swarm.remove_data(kind, _found(call, kind).id)
        return nothing()

    return handler


async def _body(call: Call, kind: DataKind) -> DataWire:
    wire = await call.body(DataWire)
    driver = wire.driver.name or "(no name)" if wire.driver is not None else ""
    templating = wire.templating.name if wire.templating is not None else None
    if templating is not None and call.api_version < TEMPLATES_SINCE:
        version = ".".join(map(str, call.api_version))
        raise InvalidArgument(
            f"{kind} templating is not supported on the specified API version: {version}"
        )
    check_driver(kind, wire.name, driver, templating)
    return wire
