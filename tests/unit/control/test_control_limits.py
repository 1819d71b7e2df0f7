"""A decision is committed in one transaction: the loops leave what is too much for the next run."""

import pytest

from weft.model.network import NetworkSpec
from weft.model.service import ContainerSpec, ServiceSpec, TaskSpec
from weft.model.state import MOST_CHANGES
from weft.model.task import TaskState
from weft.testing.control_room import ControlRoom, Loop

EXTRA = 50
"""The cluster, networks, and what else a pass writes once."""


@pytest.mark.parametrize("loop", ["allocator", "scheduler"])
def test_a_large_service_is_decided_on_in_parts(loop: Loop) -> None:
    room = ControlRoom(3)
    room.network(NetworkSpec(name="net"))
    wanted = 2 * MOST_CHANGES + 1
    task = TaskSpec(container=ContainerSpec(image="demo"))
    room.service(ServiceSpec(name="web", task=task, replicas=wanted))
    while room.run("orchestrator").changes:
        pass
    while loop == "scheduler" and room.run("allocator").changes:
        pass
    sizes = []
    while (decision := room.run(loop)).changes:
        sizes.append(len(decision.changes))
    assert len(sizes) >= 3
    assert max(sizes) <= MOST_CHANGES + EXTRA
    done = TaskState.PENDING if loop == "allocator" else TaskState.ASSIGNED
    assert len(room.state.tasks_in(done)) == wanted
