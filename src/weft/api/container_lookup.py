"""Finds a container by its id, its name (with or without the slash) or a unique prefix of its
id."""

from weft.errors import InvalidArgument, NotFound
from weft.model.container import Container
from weft.runtime.base import Runtime


def find_container(runtime: Runtime, reference: str) -> Container:
    """Raises `NotFound`: `No such container: <reference>`, or `InvalidArgument` for a prefix that
    several ids have."""
    containers = {str(container.id): container for container in runtime.containers()}
    names: dict[str, list[Container]] = {}
    for container in containers.values():
        for name in (container.config.name, f"/{container.config.name}"):
            names.setdefault(name, []).append(container)
    if reference in containers:
        return containers[reference]
    found = names.get(reference) or [
        c for id, c in containers.items() if reference and id.startswith(reference)
    ]
    if not found:
        raise NotFound(f"No such container: {reference}")
    if len(found) > 1:
        raise InvalidArgument(f"multiple IDs found with provided prefix: {reference}")
    return found[0]
