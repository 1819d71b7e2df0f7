"""Requests about services: checked against the other objects, then written. The control loops do
the rest."""

import msgspec

from weft.control.allocator.ports import NO_PORTS, OwnPorts, conflict, reserved
from weft.control.orchestrator.jobs import started_again
from weft.control.orchestrator.updater import rolled_back, with_spec
from weft.control.requests.fixed_addresses import with_addresses
from weft.control.requests.references import check_references
from weft.control.requests.sequence import check_sequence
from weft.control.requests.validation import validate_service
from weft.control.scheduler.start_order import circle
from weft.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound, Unsupported
from weft.model import labels
from weft.model.ids import ServiceId
from weft.model.meta import Nanoseconds
from weft.model.registry import AuthSource, SealedAuth
from weft.model.service import EndpointSpec, JobStatus, Service, ServiceSpec
from weft.model.state import Change, ClusterState, Put, Remove


def creation(
    state: ClusterState,
    id: ServiceId,
    spec: ServiceSpec,
    now: Nanoseconds,
    own_ports: OwnPorts = NO_PORTS,
    auth: SealedAuth | None = None,
) -> list[Change]:
    """`own_ports`: ports of this host, here and below."""
    spec = _checked(state, None, labels.applied(spec), own_ports)
    if state.named("service", spec.name) is not None:
        raise Conflict(
            "rpc error: code = AlreadyExists desc = name conflicts with an existing object:"
            f" service {spec.name} already exists"
        )
    job_status = None if spec.job is None else JobStatus(last_execution=now)
    return [Put(Service(id=id, spec=spec, registry_auth=auth, job_status=job_status))]


def update(
    state: ClusterState,
    id: ServiceId,
    version: int,
    spec: ServiceSpec,
    now: Nanoseconds,
    own_ports: OwnPorts = NO_PORTS,
    auth: SealedAuth | AuthSource | None = "spec",
) -> list[Change]:
    """`auth`: other credentials, None for none, or whose credentials are kept. Tasks that run go on
    whatever they are: only a pull needs them."""
    service, spec = _at(state, id, version), labels.applied(spec)
    if spec.name != service.spec.name:
        raise Unsupported("renaming services is not supported")
    if spec.mode != service.spec.mode:
        raise Unsupported("service mode change is not allowed")
    spec = _checked(state, service, spec, own_ports)
    updated = msgspec.structs.replace(with_spec(service, spec), registry_auth=_auth(service, auth))
    return [Put(started_again(updated, now))]


def _auth(service: Service, auth: SealedAuth | AuthSource | None) -> SealedAuth | None:
    if auth == "spec":
        return service.registry_auth
    if auth == "previous-spec":
        if service.previous_spec is None:
            raise FailedPrecondition("service does not have a previous spec")
        return service.previous_registry_auth
    return auth


def rollback(
    state: ClusterState,
    id: ServiceId,
    version: int,
    now: Nanoseconds,
    own_ports: OwnPorts = NO_PORTS,
) -> list[Change]:
    service = _at(state, id, version)
    restored = rolled_back(service, now)
    spec = _checked(state, service, restored.spec, own_ports)
    restored = msgspec.structs.replace(restored, spec=spec)
    return [Put(started_again(restored, now))]


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
    check_sequence(service, version)
    return service


def _checked(
    state: ClusterState, service: Service | None, spec: ServiceSpec, own_ports: OwnPorts
) -> ServiceSpec:
    """The specification, complete with what its labels say about other objects. `service`: None for
    a service to be created."""
    validate_service(spec)
    check_references(state, spec.task.container)
    if names := circle(state, spec):
        raise labels.refusal(
            labels.START_AFTER,
            spec.labels[labels.START_AFTER],
            f"{' waits for '.join(names)}",
        )
    for attached in spec.task.networks:
        network = state.networks.get(attached.target)
        if network is None:
            raise NotFound(f"network {attached.target} not found")
        if network.spec.ingress:
            raise InvalidArgument(
                f'Service cannot be explicitly attached to the ingress network "{network.name}"'
            )
    if any(port.mode == "ingress" for port in spec.endpoint.ports) and state.ingress is None:
        raise FailedPrecondition("service needs ingress network, but no ingress network is present")
    endpoint = _claimed(spec)
    cause = reserved(state, service, endpoint, own_ports)
    if cause is not None:
        raise InvalidArgument(cause)
    cause = conflict(state, service.id if service else None, endpoint)
    if cause is not None:
        raise InvalidArgument(f"rpc error: code = InvalidArgument desc = {cause}")
    return with_addresses(state, service, spec)


def _claimed(spec: ServiceSpec) -> EndpointSpec:
    """The endpoint spec; on the host's own network, a port is published as its target."""
    if not spec.task.host_network:
        return spec.endpoint
    ports = tuple(
        msgspec.structs.replace(port, published=port.target) for port in spec.endpoint.ports
    )
    return msgspec.structs.replace(spec.endpoint, ports=ports)
