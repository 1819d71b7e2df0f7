"""What may be done to a container in the state that it is in, with Docker's texts.

A container that has ended and is about to be started again, as its restart policy says, counts as
running in Docker (moby, `SetRestarting`): it is listed, can be stopped and killed, is not removed
without force, and a second start changes nothing. But there are no processes in it.
"""

from weft.api.call import Call
from weft.api.schema.container import state_name
from weft.errors import Conflict
from weft.model.container import Container, ContainerState
from weft.model.plain_container import restarting


def counts_as_running(call: Call, container: Container) -> bool:
    return container.state is ContainerState.RUNNING or call.node.plain.is_restarting(container.id)


def check_runs(call: Call, container: Container) -> None:
    """Raises `Conflict` if there are no processes in the container."""
    if call.node.plain.is_restarting(container.id):
        raise Conflict(restarting(container.id))
    if container.state is not ContainerState.RUNNING:
        raise Conflict(f"container {container.id} is not running")


def check_removable(call: Call, container: Container) -> None:
    """Raises `Conflict` if only force removes the container."""
    if not counts_as_running(call, container):
        return
    state = state_name(container, call.node.plain.is_restarting(container.id))
    hint = (
        " and must be unpaused first"
        if state == "paused"
        else ": stop the container before removing or force remove"
    )
    raise Conflict(f'cannot remove container "{call.id}": container is {state}{hint}')
