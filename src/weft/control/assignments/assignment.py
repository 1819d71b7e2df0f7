"""The assignment of one node: its tasks, the views of the networks that they are on, and the
secrets and configs that they need."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from weft.control.assignments.views import Views
from weft.model.assignment import (
    Assignment,
    TaskAssignment,
)
from weft.model.cluster import VXLAN_PORT
from weft.model.ids import ConfigId, NetworkId, NodeId, SecretId, ServiceId
from weft.model.registry import PullAuth, is_of
from weft.model.secret import Config, DataKind, DataReference, Payload, Secret
from weft.model.service import Service
from weft.model.state import ClusterState
from weft.model.task import Task, TaskState

PayloadOf = Callable[[Secret | Config], Payload | None]
"""Gives what a node gets of a secret or config; None for one that this manager cannot open."""


AuthOf = Callable[[Service], PullAuth | None]
"""Gives what a node gets of a service's credentials; None as above."""


def sealed_stay_closed(found: Secret | Config) -> Payload | None:
    """`PayloadOf` without any key."""
    if isinstance(found, Secret):
        return None
    return Payload(id=found.id, data=found.data, templated=found.spec.templated)


class Opened(NamedTuple):
    """What this manager can open for nodes."""

    payload_of: PayloadOf
    auth_of: AuthOf


NOTHING_OPENED = Opened(sealed_stay_closed, lambda _: None)
"""Without any key."""


def assignment_for(
    state: ClusterState,
    node_id: NodeId,
    views: Views,
    known: Assignment | None = None,
    opened: Opened = NOTHING_OPENED,
) -> Assignment:
    """The assignment of the node. `views`: those of `network_views` at this very state. `known`: an
    earlier assignment, if no task of the node has changed since; most assignments are made because
    of an event on a network elsewhere."""
    cluster = state.cluster
    if known is None:
        found = state.tasks_on(node_id).values()
        tasks = {
            task.id: TaskAssignment.of(task, node_id, _private_registry(state, task))
            for task in found
            if is_dispatched(task)
        }
        needing = [task for task in found if is_dispatched(task) and not task.state.is_terminal]
        secrets = {
            SecretId(id): it for id, it in _payloads(state, "secret", needing, opened.payload_of)
        }
        configs = {
            ConfigId(id): it for id, it in _payloads(state, "config", needing, opened.payload_of)
        }
        auths = dict(_auths(state, tasks.values(), opened.auth_of))
    else:
        tasks, secrets, configs = known.tasks, known.secrets, known.configs
        auths = known.registry_auths
    networks = {
        network: views[network] for network in _networks_of(state, node_id) if network in views
    }
    needs_keys = cluster is not None and any(
        view.definition.encrypted for view in networks.values()
    )
    return Assignment(
        node=node_id,
        revision=state.revision,
        data_path_port=cluster.data_path_port if cluster else VXLAN_PORT,
        keys=cluster.data_keys if cluster is not None and needs_keys else (),
        tasks=tasks,
        networks=networks,
        secrets=secrets,
        configs=configs,
        registry_auths=auths,
    )


def _private_registry(state: ClusterState, task: Task) -> str:
    """The registry of the task's image, if the service has credentials for it. Credentials for
    another registry, as after an update to an image elsewhere, are not sent there."""
    service = state.services.get(task.service)
    sealed = service.registry_auth if service is not None else None
    if sealed is None or task.state.is_terminal:
        return ""
    return sealed.registry if is_of(task.spec.container.image, sealed.registry) else ""


def _auths(
    state: ClusterState, tasks: Iterable[TaskAssignment], auth_of: AuthOf
) -> Iterator[tuple[ServiceId, PullAuth]]:
    for id in dict.fromkeys(task.service for task in tasks if task.private_registry):
        auth = auth_of(state.services[id])
        if auth is not None:
            yield id, auth


def _payloads(
    state: ClusterState, kind: DataKind, tasks: Iterable[Task], payload_of: PayloadOf
) -> Iterator[tuple[str, Payload]]:
    """What these tasks refer to, by id."""
    table = state.tables[kind]
    for id in dict.fromkeys(
        reference.id for task in tasks for reference in _references(task, kind)
    ):
        found = table.get(id)
        payload = payload_of(found) if isinstance(found, Secret | Config) else None
        if found is None:
            yield id, Payload(id=id, is_gone=True)
        elif payload is not None:
            yield id, payload


def _references(task: Task, kind: DataKind) -> tuple[DataReference, ...]:
    container = task.spec.container
    return container.secrets if kind == "secret" else container.configs


def is_dispatched(task: Task) -> bool:
    """Whether the task's node must know the task. Ended tasks are included: the agent keeps their
    container and log as long as their record is kept."""
    return task.state >= TaskState.ASSIGNED and not (
        task.state.is_terminal and task.desired >= TaskState.REMOVE
    )


def _networks_of(state: ClusterState, node_id: NodeId) -> Iterator[NetworkId]:
    """Ingress, because every node answers for the published ports; then the networks of the node's
    tasks."""
    ingress = state.ingress
    if ingress is not None:
        yield ingress.id
    yield from (
        network
        for network in state.usage.networks(node_id)
        if ingress is None or network != ingress.id
    )
