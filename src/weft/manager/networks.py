"""Creates and removes networks. A request to create one waits for its answer until the allocator
has served the network; a request to remove one, until the last tasks of removed services have left
it. `docker stack rm` removes services and networks together, and established connections last as
long as the tasks' grace periods."""

import asyncio
import logging
from typing import NoReturn

from weft.control.requests.networks import creation, leaving, removal
from weft.errors import Conflict, NotFound, Unavailable, WeftError
from weft.manager.transaction import transact
from weft.model.ids import NetworkId
from weft.model.network import Network, NetworkSpec
from weft.model.state import Change, ClusterState, Kind, Remove
from weft.store.base import Store, Subscription

log = logging.getLogger(__name__)

KINDS_AWAITED: tuple[Kind, ...] = ("network",)
TASKS: tuple[Kind, ...] = ("task",)
ALLOCATION_TIMEOUT = 20.0
"""Seconds; Docker Swarm's timeout for a request to the cluster."""
LEAVE_TIMEOUT = 30.0
"""Seconds that a removal waits for tasks. Clients wait for an answer for a minute."""


async def remove(store: Store, id: NetworkId) -> None:
    """Raises `NotFound`, or `FailedPrecondition` for a network in use."""
    await store.sync()
    removal(store.state, id)
    subscription = store.subscribe(TASKS)
    try:
        async with asyncio.timeout(LEAVE_TIMEOUT):
            while leaving(store.state, id):
                await subscription.next()
    except TimeoutError:
        log.warning("network.removed_early network=%s cause=%r", id, "its tasks have not ended")
    finally:
        subscription.close()
    await transact(store, lambda state: removal(state, id))


async def create(store: Store, id: NetworkId, spec: NetworkSpec) -> Network:
    """See `api.backend.Swarm.create_network`."""
    subscription = store.subscribe(KINDS_AWAITED)
    try:
        await transact(store, lambda state: creation(state, id, spec))
        async with asyncio.timeout(ALLOCATION_TIMEOUT):
            return await _allocated(store, id, subscription)
    except TimeoutError:
        await _take_back(
            store,
            id,
            f"cannot create network {spec.name}: the allocator did not answer in"
            f" {ALLOCATION_TIMEOUT:g} s",
        )
    finally:
        subscription.close()


async def _allocated(store: Store, id: NetworkId, subscription: Subscription) -> Network:
    while True:
        network = store.state.networks.get(id)
        if network is None:
            raise NotFound(f"network {id} not found: it was removed before it was complete")
        if network.segments:
            return network
        if network.error:
            await _take_back(store, id, network.error)
        await subscription.next()


async def _take_back(store: Store, id: NetworkId, cause: str) -> NoReturn:
    def back(state: ClusterState) -> list[Change]:
        network = state.networks.get(id)
        return [Remove("network", id, network.meta.version)] if network else []

    try:
        await transact(store, back)
    except WeftError as error:
        raise Unavailable(f"{cause}; nor can it be taken back: {error}") from error
    raise Conflict(cause)
