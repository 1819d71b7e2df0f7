"""The metrics of a manager: the swarm's objects, its control loops, its sessions and its store."""

import asyncio
from collections import Counter
from collections.abc import Iterable

from weft.lens import catalogue as metric
from weft.lens.page import Page
from weft.manager.dispatch import Dispatcher
from weft.manager.loops import ControlLoop
from weft.manager.suspicion import Suspicion
from weft.model.node import NodeState
from weft.model.state import ClusterState
from weft.model.task import TaskState
from weft.store.base import Store
from weft.store.etcd.base import Kv

PATIENCE = 1.0
"""Seconds for etcd to tell its size."""


def put_objects(page: Page, state: ClusterState) -> None:
    """Docker shows each state, also where there is nothing in it."""
    nodes = Counter(node.status.state for node in state.nodes.values())
    for node_state in NodeState:
        page.put(metric.NODES, nodes[node_state], node_state.value)
    tasks = Counter(t.status.state for t in state.tasks.values() if t.attached is None)
    for task_state in TaskState:
        page.put(metric.TASKS, tasks[task_state], task_state.name.lower())
    page.put(metric.SERVICES, len(state.services))
    page.put(metric.NETWORKS, len(state.networks))
    page.put(metric.SECRETS, len(state.secrets))
    page.put(metric.CONFIGS, len(state.configs))
    for service in state.services.values():
        found = state.tasks_of(service.id).values()
        wanted = sum(task.desired <= TaskState.RUNNING for task in found)
        running = sum(task.status.state is TaskState.RUNNING for task in found)
        page.put(metric.SERVICE_TASKS, running, service.spec.name, "running")
        page.put(metric.SERVICE_TASKS, wanted, service.spec.name, "desired")


def put_loops(page: Page, loops: Iterable[ControlLoop]) -> None:
    for loop in loops:
        page.spread(metric.LOOP_SECONDS, loop.seconds, loop.name)
        page.put(metric.LOOP_WAITING, loop.waiting, loop.name)
        page.put(metric.LOOP_FAILURES, loop.failures, loop.name)


def put_sessions(
    page: Page, state: ClusterState, dispatcher: Dispatcher, suspicion: Suspicion
) -> None:
    page.put(metric.SESSIONS, dispatcher.sessions)
    page.put(metric.BEHIND, dispatcher.behind)
    for id, answers in suspicion.answers().items():
        node = state.nodes.get(id)
        if node is not None:
            page.put(metric.HOST_ANSWERS, answers, node.hostname, id)


async def put_store(page: Page, store: Store, kv: Kv | None) -> None:
    page.put(metric.STORE_HEALTHY, store.is_healthy)
    page.put(metric.STORE_REVISION, store.state.revision)
    page.spread(metric.COMMITS, store.commit_seconds)
    if kv is None:
        return
    async with asyncio.timeout(PATIENCE):
        status = await kv.status()
    page.put(metric.STORE_SIZE, status.size)
    page.put(metric.STORE_IN_USE, status.in_use)
    page.put(metric.ETCD_LEADER, status.leader != 0)
    page.put(metric.ETCD_FULL, status.is_full)
