"""The parts of a service spec that a request left out, and how the spec is shown without them.

The model has a value for everything, so the rest of Weft does not know about absent parts. The API
shows a spec as it was given, and with the defaults if a client asks for them (`insertDefaults`, as
the docker command does). Which defaults are shown then is swarmkit's choice (`defaults/service.go`):
the others, such as an absent log driver, stay absent.
"""

from collections.abc import Iterable, Iterator

from weft.api.schema.common import Json
from weft.api.schema.service_wire import ServiceWire, UpdateWire

_CONTAINER = "TaskTemplate.ContainerSpec"
_RESOURCES = "TaskTemplate.Resources"
_RESTART = "TaskTemplate.RestartPolicy"
_NEVER_FILLED = frozenset((f"{_RESTART}.Window", "TaskTemplate.LogDriver", "EndpointSpec"))


def left_out(wire: ServiceWire) -> tuple[str, ...]:
    """The dotted paths of the parts that are absent and can be told from their defaults, sorted."""
    return tuple(sorted(path for path, is_absent in _parts(wire) if is_absent))


def _parts(wire: ServiceWire) -> Iterator[tuple[str, bool]]:
    task = wire.task_template
    container, resources, restart = task.container_spec, task.resources, task.restart_policy
    yield f"{_CONTAINER}.StopGracePeriod", not container or container.stop_grace_period is None
    yield f"{_CONTAINER}.DNSConfig", not container or container.dns is None
    yield _RESOURCES, resources is None
    yield f"{_RESOURCES}.Limits", resources is not None and resources.limits is None
    yield f"{_RESOURCES}.Reservations", resources is not None and resources.reservations is None
    yield _RESTART, restart is None
    yield f"{_RESTART}.Delay", restart is not None and restart.delay is None
    yield f"{_RESTART}.Window", restart is None or restart.window is None
    yield "TaskTemplate.Placement", task.placement is None
    yield "TaskTemplate.LogDriver", task.log_driver is None
    yield from _update("UpdateConfig", wire.update_config)
    yield from _update("RollbackConfig", wire.rollback_config)
    yield "EndpointSpec", wire.endpoint_spec is None


def _update(path: str, wire: UpdateWire | None) -> Iterator[tuple[str, bool]]:
    yield path, wire is None
    yield f"{path}.Monitor", wire is not None and not wire.monitor


def without(spec: Json, paths: Iterable[str], *, defaults: bool) -> Json:
    """The JSON of a spec without these parts; `defaults`: only without those that stay absent when
    the defaults are asked for."""
    for path in paths:
        if not defaults or path in _NEVER_FILLED:
            spec = _without(spec, path.split("."))
    return spec


def _without(value: Json, path: list[str]) -> Json:
    first, rest = path[0], path[1:]
    if first not in value:
        return value
    if not rest:
        return {key: item for key, item in value.items() if key != first}
    return value | {first: _without(value[first], rest)}
