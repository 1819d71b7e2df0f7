"""Finds a container by its id, its name (with or without the slash) or a unique prefix of its
id."""

from weft.model.container import Container
from weft.model.lookup import matches, only
from weft.runtime.base import Runtime


def find_container(runtime: Runtime, reference: str) -> Container:
    """Raises `NotFound`, or `InvalidArgument` for a prefix that several ids have."""
    found = matches(reference, runtime.containers(), lambda each: (each.id,), _names)
    return only("container", reference, found)


def _names(container: Container) -> tuple[str, str]:
    return container.config.name, f"/{container.config.name}"
