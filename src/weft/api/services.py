"""Services: list, create, inspect, update (or put the previous spec back), remove."""

import secrets

import msgspec
from aiohttp import web

from weft.api import filters, registry_auth
from weft.api.call import Call, answer
from weft.api.filters import swarm_label_matches
from weft.api.listing import answer_list
from weft.api.names import random_name
from weft.api.networks import BRIDGE, views
from weft.api.schema.common import Json
from weft.api.schema.service import HOST, Resolver, service_json, spec_from
from weft.api.schema.service_wire import ServiceWire
from weft.control.orchestrator.progress import progress
from weft.errors import Forbidden, InvalidArgument, Unsupported, clip
from weft.model import lookup
from weft.model.ids import NetworkId
from weft.model.network_lookup import find_network
from weft.model.registry import AuthSource
from weft.model.service import Service
from weft.model.state import ClusterState

FILTERS = ("name", "id", "label", "mode", "runtime")


def find_service(state: ClusterState, reference: str) -> Service:
    return lookup.find("service", reference, state.services)


def network_resolver(call: Call) -> Resolver:
    """Resolves the networks that a service may name: the swarm's except ingress, and the host's
    own."""
    candidates = views(call)

    def resolve(reference: str) -> NetworkId | None:
        view = find_network(candidates, reference)
        if view.name == HOST:
            return None
        if view.name == BRIDGE:
            raise Unsupported(
                f"TaskTemplate.Networks: the network {BRIDGE} of each host is not supported by Weft"
                " for services"
            )
        if view.scope != "swarm":
            raise Forbidden(
                f"The network {reference} cannot be used with services. Only networks scoped to the"
                " swarm can be used, such as those created with the overlay driver."
            )
        network = call.swarm.state.networks.get(NetworkId(view.id))
        if network is not None and network.spec.ingress:
            raise InvalidArgument(
                f'Service cannot be explicitly attached to the ingress network "{reference}"'
            )
        return NetworkId(view.id)

    return resolve


async def listing(call: Call) -> web.Response:
    state = call.swarm.state
    test = filters.compile_test(call.filters(FILTERS), MAKERS)
    if not call.flag("status"):
        return await answer_list(state.services.values(), test, service_json)
    return await answer_list(
        state.services.values(),
        test,
        lambda service: service_json(service) | {"ServiceStatus": _status(state, service)},
    )


MAKERS: filters.Makers[Service] = {
    "name": lambda value: lambda service: service.name.startswith(value),
    "id": lambda value: lambda service: service.id.startswith(value),
    "label": lambda value: lambda service: swarm_label_matches(service.spec.labels, value),
    "mode": lambda value: lambda service: value == service.spec.mode,
    "runtime": lambda value: lambda service: value == "container",
}


def _status(state: ClusterState, service: Service) -> Json:
    count = progress(state, service)
    return {
        "RunningTasks": count.running,
        "DesiredTasks": count.desired,
        "CompletedTasks": count.completed,
    }


async def inspect(call: Call) -> web.Response:
    service = find_service(call.swarm.state, call.id)
    return answer(service_json(service, defaults=call.flag("insertDefaults")))


async def create(call: Call) -> web.Response:
    swarm = call.swarm
    wire = await call.body(ServiceWire)
    auth = registry_auth.given(call.request)
    if not wire.name:
        wire = msgspec.structs.replace(wire, name=random_name(secrets.token_bytes(4)))
    id = await swarm.create_service(spec_from(wire, network_resolver(call)), auth)
    return answer({"ID": id, "Warnings": None}, 201)


async def update(call: Call) -> web.Response:
    swarm = call.swarm
    service = find_service(swarm.state, call.id)
    version = call.number("version")
    auth = registry_auth.given(call.request) or _kept_auth(call)
    rollback = call.query("rollback")
    if rollback not in ("", "none", "previous"):
        raise InvalidArgument(f"invalid rollback: {rollback!r} (must be previous or none)")
    if rollback == "previous":
        await swarm.update_service(service.id, version, service.spec, "previous")
    else:
        wire = await call.body(ServiceWire)
        wire = msgspec.structs.replace(wire, name=wire.name or service.name)
        spec = spec_from(wire, network_resolver(call))
        await swarm.update_service(service.id, version, spec, "", auth)
    return answer({"Warnings": None})


def _kept_auth(call: Call) -> AuthSource:
    """Whose credentials the service keeps if the header brings none."""
    match call.query("registryAuthFrom"):
        case "" | "spec":
            return "spec"
        case "previous-spec":
            return "previous-spec"
        case other:
            raise InvalidArgument(
                f"unsupported registryAuthFrom value: {clip(other)!r} (must be spec or"
                " previous-spec)"
            )


async def remove(call: Call) -> web.Response:
    swarm = call.swarm
    await swarm.remove_service(find_service(swarm.state, call.id).id)
    return web.Response(status=200)
