"""Requests about secrets and configs: creation, other labels, and removal once no service refers to
them. The texts are Docker Swarm's (swarmkit manager/controlapi)."""

import re
from collections.abc import Callable

import msgspec

from weft.errors import Conflict, InvalidArgument, NotFound, OutOfSequence, Unsupported
from weft.model.ids import ConfigId, SecretId
from weft.model.secret import Config, DataKind, DataSpec, Sealed, Secret
from weft.model.state import Change, ClusterState, Put, Remove
from weft.model.template import Template
from weft.model.template_functions import PAYLOAD_FUNCTIONS

MAX_NAME = 64
SIZE_LIMIT = {"secret": 500 * 1024, "config": 1000 * 1024}
"""Bytes; data must be shorter."""
_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9._-]*[a-zA-Z0-9])?")


def validate(kind: DataKind, spec: DataSpec, data: bytes) -> None:
    """Raises `InvalidArgument`; its text never quotes the data."""
    if not spec.name:
        raise _invalid("name must be provided")
    if len(spec.name) > MAX_NAME or not _NAME.fullmatch(spec.name):
        raise _invalid(
            f"invalid name, only {MAX_NAME} [a-zA-Z0-9-_.] characters allowed, and the start and"
            " end character must be [a-zA-Z0-9]"
        )
    limit = SIZE_LIMIT[kind]
    if not 0 < len(data) < limit:
        raise _invalid(f"{kind} data must be larger than 0 and less than {limit} bytes")
    if spec.templated:
        _validate_template(kind, spec, data)


def _validate_template(kind: DataKind, spec: DataSpec, data: bytes) -> None:
    """A template that no task could expand is refused here, and not by each task."""
    try:
        Template(data.decode(errors="surrogateescape"), PAYLOAD_FUNCTIONS)
    except InvalidArgument as error:
        cause = "its data is no valid template" if kind == "secret" else str(error.__cause__)
        raise InvalidArgument(f"cannot create {kind} {spec.name}: {cause}") from None


def check_driver(kind: DataKind, name: str, driver: str, templating: str | None) -> None:
    """Raises `InvalidArgument`. `driver`: of a secret whose data would be elsewhere; `templating`:
    None for data that is no template."""
    if driver:
        raise Unsupported(
            f"cannot create {kind} {name}: Driver.Name: the secret driver {driver!r} is not"
            " supported by Weft"
        )
    if templating not in (None, "golang"):
        raise Unsupported(
            f"cannot create {kind} {name}: Templating.Name: the template driver {templating!r} is"
            " not supported by Weft, only golang is"
        )


def secret_creation(
    state: ClusterState, id: SecretId, spec: DataSpec, sealed: Sealed
) -> list[Change]:
    """The caller has called `validate` before sealing the data."""
    _check_name(state, "secret", spec.name)
    return [Put(Secret(id=id, spec=spec, sealed=sealed))]


def config_creation(state: ClusterState, id: ConfigId, spec: DataSpec, data: bytes) -> list[Change]:
    validate("config", spec, data)
    _check_name(state, "config", spec.name)
    return [Put(Config(id=id, spec=spec, data=data))]


def update(
    state: ClusterState,
    kind: DataKind,
    id: str,
    version: int,
    spec: DataSpec,
    is_same: Callable[[Secret | Config], bool],
) -> list[Change]:
    """Only labels can be changed. `is_same`: whether an object's data is that of the request;
    requests without data leave it as it is."""
    current = _get(state, kind, id)
    if current.meta.version != version:
        raise OutOfSequence("update out of sequence")
    if spec.name != current.name or spec.templated != current.spec.templated:
        raise _invalid("only updates to Labels are allowed")
    if not is_same(current):
        raise _invalid("only updates to Labels are allowed")
    return [Put(msgspec.structs.replace(current, spec=spec))]


def removal(state: ClusterState, kind: DataKind, id: str) -> list[Change]:
    current = _get(state, kind, id)
    users = [service.name for service in state.services_using(kind, id).values()]
    if users:
        services = "service" if len(users) == 1 else "services"
        raise _invalid(
            f"{kind} '{current.name}' is in use by the following {services}: {', '.join(users)}"
        )
    return [Remove(kind, id, current.meta.version)]


def _check_name(state: ClusterState, kind: DataKind, name: str) -> None:
    if state.named(kind, name) is not None:
        raise Conflict(f"rpc error: code = AlreadyExists desc = {kind} {name} already exists")


def _get(state: ClusterState, kind: DataKind, id: str) -> Secret | Config:
    found = state.tables[kind].get(id)
    if not isinstance(found, Secret | Config):
        raise NotFound(f"{kind} {id} not found")
    return found


def _invalid(text: str) -> InvalidArgument:
    return InvalidArgument(f"rpc error: code = InvalidArgument desc = {text}")
