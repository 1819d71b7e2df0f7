"""Services as users ask for them: checked against all that crosses objects, then written. What follows is the control loops'."""

from weft.control.allocator.ports import conflict
from weft.control.orchestrator.updater import rolled_back, with_spec
from weft.control.validate import validate_service
from weft.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound, OutOfSequence, Unsupported
from weft.model.ids import ServiceId
from weft.model.meta import Nanoseconds
from weft.model.service import Service, ServiceSpec
from weft.model.state import Change, ClusterState, Put, Remove


def creation(state: ClusterState, id: ServiceId, spec: ServiceSpec) -> list[Change]:
    _check(state, None, spec)
    if state.named("service", spec.name) is not None:
        raise Conflict(
            f"rpc error: code = AlreadyExists desc = name conflicts with an existing object: service {spec.name} already exists"
        )
    return [Put(Service(id=id, spec=spec))]


def update(state: ClusterState, id: ServiceId, version: int, spec: ServiceSpec) -> list[Change]:
    service = _at(state, id, version)
    if spec.name != service.spec.name:
        raise Unsupported("renaming services is not supported")
    if spec.is_global != service.spec.is_global:
        raise Unsupported("service mode change is not allowed")
    _check(state, id, spec)
    return [Put(with_spec(service, spec))]


def rollback(state: ClusterState, id: ServiceId, version: int, now: Nanoseconds) -> list[Change]:
    service = _at(state, id, version)
    restored = rolled_back(service, now)
    _check(state, id, restored.spec)
    return [Put(restored)]


def removal(state: ClusterState, id: ServiceId) -> list[Change]:
    service = _get(state, id)
    return [Remove("service", id, service.meta.version)]


def _get(state: ClusterState, id: ServiceId) -> Service:
    service = state.services.get(id)
    if service is None:
        raise NotFound(f"service {id} not found")
    return service


def _at(state: ClusterState, id: ServiceId, version: int) -> Service:
    service = _get(state, id)
    if service.meta.version != version:
        raise OutOfSequence("update out of sequence")
    return service


def _check(state: ClusterState, id: ServiceId | None, spec: ServiceSpec) -> None:
    """`id`: None for a service that is to be created."""
    validate_service(spec)
    for attached in spec.task.networks:
        network = state.networks.get(attached.target)
        if network is None:
            raise NotFound(f"network {attached.target} not found")
        if network.spec.ingress:
            raise InvalidArgument(f'Service cannot be explicitly attached to the ingress network "{network.name}"')
    if any(port.mode == "ingress" for port in spec.endpoint.ports) and state.ingress is None:
        raise FailedPrecondition("service needs ingress network, but no ingress network is present")
    cause = conflict(state, id, spec.endpoint)
    if cause is not None:
        raise InvalidArgument(f"rpc error: code = InvalidArgument desc = {cause}")
