"""What the users of a simulated swarm were told, and what must therefore be true in the end.

Of each thing the ledger keeps what it may be. An operation that was answered leaves one
possibility; one that was refused changes nothing; one without an answer adds what it would have
made. Operations on one thing are made one after the other.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import msgspec

from tests.simulation.cluster import SimCluster
from weft.errors import NotFound, Unavailable, WeftError
from weft.manager.manager import Manager
from weft.model.ids import NetworkId, NodeId, ServiceId
from weft.model.network import Network, NetworkSpec
from weft.model.node import Availability, Role
from weft.model.service import NetworkAttachmentSpec, Service, ServiceSpec


class Requirements(NamedTuple):
    """An operation, and what there is when it was carried out (None: nothing)."""

    after: object
    carry_out: Callable[[], Coroutine[Any, Any, object]]


Plan = Callable[[Manager], Requirements]
"""Made of what the manager that is asked knows; raises `WeftError` if it cannot be."""


class Ledger:
    def __init__(self, cluster: SimCluster) -> None:
        self._cluster = cluster
        self._possible: dict[tuple[str, str], list[object]] = {}
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self.answered = self.refused = self.unanswered = 0

    # --- operations

    async def create_service(self, spec: ServiceSpec, networks: tuple[str, ...]) -> None:
        def plan(manager: Manager) -> Requirements:
            wanted = _attached(manager, spec, networks)
            return Requirements(wanted, lambda: manager.swarm.create_service(wanted))

        await self._attempt(("service", spec.name), plan)

    async def change_service(self, name: str, change: Callable[[ServiceSpec], ServiceSpec]) -> None:
        def plan(manager: Manager) -> Requirements:
            service = _service(manager, name)
            spec = change(service.spec)
            return Requirements(
                spec,
                lambda: manager.swarm.update_service(
                    ServiceId(service.id), service.meta.version, spec
                ),
            )

        await self._attempt(("service", name), plan)

    async def remove_service(self, name: str) -> None:
        def plan(manager: Manager) -> Requirements:
            service = _service(manager, name)
            return Requirements(None, lambda: manager.swarm.remove_service(ServiceId(service.id)))

        await self._attempt(("service", name), plan)

    async def create_network(self, spec: NetworkSpec) -> None:
        await self._attempt(
            ("network", spec.name),
            lambda manager: Requirements(spec, lambda: manager.swarm.create_network(spec)),
        )

    async def remove_network(self, name: str) -> None:
        def plan(manager: Manager) -> Requirements:
            network = _network(manager, name)
            return Requirements(None, lambda: manager.swarm.remove_network(NetworkId(network.id)))

        await self._attempt(("network", name), plan)

    async def make_available(self, node: NodeId, availability: Availability) -> None:
        def plan(manager: Manager) -> Requirements:
            found = manager.swarm.state.nodes.get(node)
            if found is None:
                raise NotFound(f"node {node} not found")
            spec = msgspec.structs.replace(found.spec, availability=availability)
            return Requirements(
                availability, lambda: manager.swarm.update_node(node, found.meta.version, spec)
            )

        await self._attempt(("node", node), plan, "active")

    async def give_role(self, node: NodeId, role: Role) -> None:
        def plan(manager: Manager) -> Requirements:
            found = manager.swarm.state.nodes.get(node)
            if found is None:
                raise NotFound(f"node {node} not found")
            spec = msgspec.structs.replace(found.spec, role=role)
            return Requirements(
                role, lambda: manager.swarm.update_node(node, found.meta.version, spec)
            )

        await self._attempt(("role", node), plan, self._cluster.state.nodes[node].spec.role)

    async def remove_node(self, node: NodeId) -> bool:
        """Whether it is gone."""
        await self._attempt(
            ("node", node),
            lambda manager: Requirements(None, lambda: manager.swarm.remove_node(node, True)),
            "active",
        )
        return node not in self._cluster.state.nodes

    async def leave(self, node: NodeId, leave: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A node that leaves is drained, unless no manager hears of it in time."""
        key = ("node", node)
        async with self._locks.setdefault(key, asyncio.Lock()):
            self._possible.setdefault(key, ["active"]).append("drain")
            await leave()

    # --- in the end

    def lies(self) -> list[str]:
        """What was answered and is not so."""
        state = self._cluster.state
        found: dict[tuple[str, str], object] = {
            ("service", s.name): s.spec for s in state.services.values()
        }
        found |= {
            ("network", n.name): n.spec for n in state.networks.values() if not n.spec.ingress
        }
        found |= {("node", n.id): n.spec.availability for n in state.nodes.values()}
        found |= {("role", n.id): n.spec.role for n in state.nodes.values()}
        return [
            f"{key} is {found.get(key)} and may be {possible}"
            for key, possible in self._possible.items()
            if found.get(key) not in possible
        ] + [
            f"{key} was never asked for"
            for key in found
            if key not in self._possible and key[0] in ("service", "network")
        ]

    # ---

    async def _attempt(self, key: tuple[str, str], plan: Plan, initial: object = None) -> None:
        async with self._locks.setdefault(key, asyncio.Lock()):
            possible = self._possible.setdefault(key, [initial])
            made: list[object] = []

            async def operation(manager: Manager) -> None:
                requirements = plan(manager)
                made.append(requirements.after)
                await requirements.carry_out()

            try:
                await self._cluster.ask(operation)
            except Unavailable:
                self.unanswered += 1
                possible += made
            except WeftError:
                self.refused += 1
            else:
                self.answered += 1
                possible[:] = made


def _attached(manager: Manager, spec: ServiceSpec, networks: tuple[str, ...]) -> ServiceSpec:
    found = [manager.swarm.state.named("network", name) for name in networks]
    attached = tuple(
        NetworkAttachmentSpec(NetworkId(network.id)) for network in found if network is not None
    )
    return msgspec.structs.replace(spec, task=msgspec.structs.replace(spec.task, networks=attached))


def _service(manager: Manager, name: str) -> Service:
    found = manager.swarm.state.named("service", name)
    if not isinstance(found, Service):
        raise NotFound(f"service {name} not found")
    return found


def _network(manager: Manager, name: str) -> Network:
    found = manager.swarm.state.named("network", name)
    if not isinstance(found, Network):
        raise NotFound(f"network {name} not found")
    return found
