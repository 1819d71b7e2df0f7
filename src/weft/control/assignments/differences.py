"""The difference between two assignments: what the manager has to send."""

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from weft.model.assignment import (
    Assignment,
    AssignmentChange,
    CompressedView,
    EndpointRecord,
    NetworkView,
    ServiceRecord,
)
from weft.model.ids import NetworkId, ServiceId

K = TypeVar("K")
V = TypeVar("V")

MOST_DATA = 16 << 20
"""Bytes of secrets and configs in one message; the largest message that an agent takes has 64
MiB."""


class ViewDifference(msgspec.Struct, frozen=True):
    """The difference between two views of a network. It holds the views, so that their identities
    are not reused while it is remembered."""

    old: NetworkView
    new: NetworkView
    endpoints: tuple[EndpointRecord, ...]
    removed_endpoints: tuple[tuple[NetworkId, str], ...]
    services: tuple[ServiceRecord, ...]
    removed_services: tuple[tuple[NetworkId, ServiceId], ...]


_Pair = tuple[int, int]
"""The identities of an old view and of a new one."""


class Memo:
    """Comparisons remembered during one round. A thousand nodes on a network compare its views
    once. Nodes for which nothing else has changed share one change, which is encoded once."""

    def __init__(self) -> None:
        self.views: dict[_Pair, ViewDifference] = {}
        self.changes: dict[tuple[_Pair, ...], AssignmentChange] = {}


def difference(
    old: Assignment | None, new: Assignment, memo: Memo | None = None
) -> AssignmentChange:
    """The change with which `old.after(change) == new`; a full change if `old` is None."""
    memo = memo if memo is not None else Memo()
    if old is None or not _differ_in_views_alone(old, new):
        return _change(old, new, memo)
    pairs = tuple(
        (_identity(known), _identity(view))
        for id, view in new.networks.items()
        if (known := old.networks[id]) is not view
    )
    change = memo.changes.get(pairs)
    if change is None:
        change = memo.changes[pairs] = _change(old, new, memo)
    return change


def _differ_in_views_alone(old: Assignment, new: Assignment) -> bool:
    same = (
        old.tasks is new.tasks
        and old.secrets is new.secrets
        and old.configs is new.configs
        and old.registry_auths is new.registry_auths
        and old.keys == new.keys
        and old.data_path_port == new.data_path_port
    )
    return same and old.networks.keys() == new.networks.keys()


def _change(old: Assignment | None, new: Assignment, memo: Memo) -> AssignmentChange:
    before = old if old is not None else Assignment(node=new.node)
    tasks, removed_tasks = _table_difference(before.tasks, new.tasks)
    secrets, removed_secrets = _table_difference(before.secrets, new.secrets)
    configs, removed_configs = _table_difference(before.configs, new.configs)
    auths, removed_auths = _table_difference(before.registry_auths, new.registry_auths)
    views = list(_view_differences(before, new, memo))
    known = before.networks
    return AssignmentChange(
        revision=new.revision,
        full=old is None,
        data_path_port=new.data_path_port,
        keys=new.keys if before.keys != new.keys else None,
        tasks=tasks,
        removed_tasks=removed_tasks,
        views=tuple(CompressedView(view) for id, view in new.networks.items() if id not in known),
        networks=tuple(
            v.definition
            for id, v in new.networks.items()
            if id in known and known[id].definition != v.definition
        ),
        removed_networks=tuple(known.keys() - new.networks.keys()),
        endpoints=tuple(record for view in views for record in view.endpoints),
        removed_endpoints=tuple(key for view in views for key in view.removed_endpoints),
        services=tuple(record for view in views for record in view.services),
        removed_services=tuple(key for view in views for key in view.removed_services),
        secrets=secrets,
        removed_secrets=removed_secrets,
        configs=configs,
        removed_configs=removed_configs,
        registry_auths=auths,
        removed_registry_auths=removed_auths,
    )


def in_pieces(change: AssignmentChange) -> Iterator[AssignmentChange]:
    """The change as messages of bounded size: the data of a node's secrets and configs may be more
    than one message holds. A task whose data comes later waits for it."""
    if sum(len(it.data) for it in (*change.secrets, *change.configs)) <= MOST_DATA:
        yield change
        return
    left = [*(("secret", it) for it in change.secrets), *(("config", it) for it in change.configs)]
    piece = msgspec.structs.replace(change, secrets=(), configs=())
    while True:
        size, taken = 0, 0
        while taken < len(left) and (not taken or size + len(left[taken][1].data) <= MOST_DATA):
            size += len(left[taken][1].data)
            taken += 1
        here, left = left[:taken], left[taken:]
        yield msgspec.structs.replace(
            piece,
            secrets=tuple(it for kind, it in here if kind == "secret"),
            configs=tuple(it for kind, it in here if kind == "config"),
        )
        if not left:
            return
        piece = AssignmentChange(revision=change.revision, data_path_port=change.data_path_port)


def _view_differences(before: Assignment, new: Assignment, memo: Memo) -> Iterator[ViewDifference]:
    for id, view in new.networks.items():
        old = before.networks.get(id)
        if old is view or old is None:
            continue
        key = (_identity(old), _identity(view))
        if key not in memo.views:
            memo.views[key] = _view_difference(old, view)
        yield memo.views[key]


def _identity(view: NetworkView) -> int:
    return id(view)


def _view_difference(old: NetworkView, new: NetworkView) -> ViewDifference:
    network = new.definition.id
    endpoints, removed_endpoints = _table_difference(old.endpoints, new.endpoints)
    services, removed_services = _table_difference(old.services, new.services)
    return ViewDifference(
        old,
        new,
        endpoints,
        tuple((network, key) for key in removed_endpoints),
        services,
        tuple((network, key) for key in removed_services),
    )


def _table_difference(old: dict[K, V], new: dict[K, V]) -> tuple[tuple[V, ...], tuple[K, ...]]:
    """(new or changed records, removed keys)"""
    if old is new:
        return (), ()
    changed = tuple(
        record
        for key, record in new.items()
        if (known := old.get(key)) is not record and known != record
    )
    return changed, tuple(old.keys() - new.keys())
