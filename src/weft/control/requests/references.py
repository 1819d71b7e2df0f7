"""What a service's container refers to by id and name: secrets and configs. The texts are Docker
Swarm's (swarmkit manager/controlapi/service.go)."""

from weft.errors import InvalidArgument, clip
from weft.model.secret import DataKind, DataReference, path_in_container
from weft.model.service import ContainerSpec
from weft.model.state import ClusterState

LONGEST_TARGET = 4095
"""Bytes: the kernel takes no longer path (PATH_MAX in linux/limits.h)."""


def check_references(state: ClusterState, container: ContainerSpec) -> None:
    """Raises `InvalidArgument`."""
    _check_targets("secret", container.secrets)
    _check_targets("config", container.configs)
    _check_paths(container)
    _check_existence(state, "secret", container.secrets)
    _check_existence(state, "config", container.configs)


def _check_targets(kind: DataKind, references: tuple[DataReference, ...]) -> None:
    seen: dict[str, str] = {}
    for reference in references:
        target = reference.target
        if not reference.id or not reference.name:
            raise _invalid(f"malformed {kind} reference")
        if not target:
            raise _invalid(f"malformed file {kind} reference, invalid target file name provided")
        if target in seen:
            raise _invalid(
                f"{kind} references '{seen[target]}' and '{reference.name}' have a conflicting"
                f" target: '{target}'"
            )
        seen[target] = reference.name


def _check_paths(container: ContainerSpec) -> None:
    """Two files at one place, whatever they were called: Docker Swarm accepts them, and only one is
    seen. A file cannot be the root directory, nor have a name that the kernel does not take."""
    seen: dict[str, str] = {}
    for kind, references in _by_kind(container):
        for reference in references:
            target = reference.target
            path = path_in_container(kind, target)
            if "\0" in target or len(target.encode()) > LONGEST_TARGET or target.endswith("/"):
                raise _invalid(
                    f"malformed file {kind} reference, invalid target file name provided:"
                    f" {clip(target)!r}"
                )
            if path == "/":
                raise _invalid(f"malformed file {kind} reference: {target!r} is the root directory")
            if path in seen:
                raise _invalid(
                    f"{seen[path]} and {kind} '{reference.name}' have a conflicting target:"
                    f" '{clip(path)}'"
                )
            seen[path] = f"{kind} '{reference.name}'"


def _check_existence(
    state: ClusterState, kind: DataKind, references: tuple[DataReference, ...]
) -> None:
    """A reference must give the id and the name of the same object."""
    table = state.tables[kind]
    missing = [
        reference.name
        for reference in references
        if (found := table.get(reference.id)) is None or found.name != reference.name
    ]
    if missing:
        them = kind if len(missing) == 1 else f"{kind}s"
        raise _invalid(f"{them} not found: {', '.join(missing)}")


def _by_kind(container: ContainerSpec) -> list[tuple[DataKind, tuple[DataReference, ...]]]:
    return [("secret", container.secrets), ("config", container.configs)]


def _invalid(text: str) -> InvalidArgument:
    return InvalidArgument(f"rpc error: code = InvalidArgument desc = {text}")
