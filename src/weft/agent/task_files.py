"""The files that a task sees of its secrets and configs: which of them are not here yet, and what is
in them; and the credentials with which its image is pulled. Pure."""

from collections.abc import Mapping
from typing import cast

from weft.agent.workloads import template_values
from weft.model.assignment import Assignment, TaskAssignment
from weft.model.container import MemoryFile
from weft.model.ids import TaskId
from weft.model.node import NodeDescription
from weft.model.payload import Payloads, content
from weft.model.registry import RegistryAuth
from weft.model.secret import DataKind, DataReference, Payload, path_in_container
from weft.model.service import ContainerSpec


def missing(task: TaskAssignment, assignment: Assignment) -> list[str]:
    """The secrets and configs that the task refers to and that no manager has sent: after a reboot
    there are no secrets until a manager is in reach."""
    payloads = _payloads(assignment)
    return [
        f"{kind} {reference.name}"
        for kind, reference in _references(task.spec.container)
        if reference.id not in payloads[kind]
    ]


def task_files(
    task: TaskAssignment, container: ContainerSpec, node: NodeDescription, assignment: Assignment
) -> tuple[MemoryFile, ...]:
    """In the order of `model.container.file_paths`. `container`: the task's, with templates
    expanded. Nothing may be `missing`. Raises `NotFound` and `InvalidArgument` as
    `model.payload.content`."""
    payloads, values = _payloads(assignment), template_values(task, node)
    return tuple(
        MemoryFile(
            path=path_in_container(kind, reference.target),
            data=content(kind, reference, container, payloads, values),
            uid=reference.uid,
            gid=reference.gid,
            mode=reference.mode & 0o777,
        )
        for kind, reference in _references(container)
    )


def pull_auth(task: TaskAssignment, assignment: Assignment) -> RegistryAuth | None:
    """The credentials for the pull of the task's image. None if it needs none, or no manager has
    sent them (`lacks_auth`)."""
    found = assignment.registry_auths.get(task.service)
    is_for_it = found is not None and found.registry == task.private_registry
    return found.auth if found is not None and is_for_it else None


def lacks_auth(task: TaskAssignment, assignment: Assignment) -> bool:
    return bool(task.private_registry) and pull_auth(task, assignment) is None


def newly_supplied(old: Assignment, new: Assignment) -> set[TaskId]:
    """Tasks for which data or credentials have come."""
    before, after = _payloads(old), _payloads(new)
    kinds: tuple[DataKind, ...] = ("secret", "config")
    come = {
        (kind, id)
        for kind in kinds
        for id in after[kind]
        if before[kind].get(id) != after[kind][id]
    }
    authorized = {
        id for id, auth in new.registry_auths.items() if old.registry_auths.get(id) != auth
    }
    return {
        task.id
        for task in (new.tasks.values() if come or authorized else ())
        if task.service in authorized
        or any((kind, each.id) in come for kind, each in _references(task.spec.container))
    }


def _references(container: ContainerSpec) -> list[tuple[DataKind, DataReference]]:
    secrets: list[tuple[DataKind, DataReference]] = [("secret", each) for each in container.secrets]
    return [*secrets, *(("config", each) for each in container.configs)]


def _payloads(assignment: Assignment) -> Payloads:
    secrets = cast(Mapping[str, Payload], assignment.secrets)
    return {"secret": secrets, "config": cast(Mapping[str, Payload], assignment.configs)}
