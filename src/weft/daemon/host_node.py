"""The node that the API serves, on whatever adapters it runs: this host's containers, images and
networks, and its membership in a swarm while there is one.

    resume   the membership that the last daemon on this data root had
    init, join, leave   one at a time; each is refused with Docker's words where it does not apply
    swarm    the manager that runs here, or why there is none
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import msgspec

from weft.api.backend import Swarm
from weft.api.request_tally import RequestTally
from weft.daemon.address_watch import NO_ADDRESS, AddressWatch
from weft.daemon.environment import NodeEnvironment
from weft.daemon.metrics import HostMetrics
from weft.daemon.recovery import forget
from weft.daemon.swarm_node import JOIN_PATIENCE, STILL_JOINING, SwarmNode
from weft.engine.engine import Engine
from weft.engine.examination import examine_network, mend
from weft.engine.image_exchange import RecordedExchange
from weft.engine.networking import Networking
from weft.engine.plain_containers import PlainContainers
from weft.engine.reattachment import Reattachment
from weft.errors import (
    Conflict,
    Damaged,
    FailedPrecondition,
    NotFound,
    Unavailable,
    Unsupported,
)
from weft.linux.host import Addresses, NoSuchAddress
from weft.model.container import Container, NodeEvent
from weft.model.endpoint_settings import EndpointSettings
from weft.model.finding import Examination, Finding, Report, few, ordered
from weft.model.health import Health
from weft.model.host import HostInfo
from weft.model.ids import ContainerId, NodeId
from weft.model.local_network import LocalEndpoint, LocalNetwork
from weft.model.membership import InitRequest, JoinRequest, Membership
from weft.model.meta import Nanoseconds
from weft.pki import unlock_key
from weft.runtime.base import ImageExchange, Inside
from weft.session.node_lock import LOCKED
from weft.store.etcd.base import NO_MAJORITY
from weft.system.supervision import ended

log = logging.getLogger(__name__)

ChooseAddresses = Callable[[str, str, str], Addresses]
"""(listen, advertise and data path address as asked for) -> the addresses. Raises
`InvalidArgument`."""

ADDRESS_PAUSE = 2.0
"""Seconds between two looks for an address that the host has lost."""
NO_SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" '
    "to connect this node to swarm and try again."
)
WORKER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. "
    "Please run this command on a manager node or promote the current node to a manager."
)
ALREADY = (
    'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join'
    " another one."
)
LEAVING_MANAGER = (
    "You are attempting to leave the swarm on a node that is participating as a manager. "
)
LOCKED_LEAVING = (
    "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message."
)
LAST_MANAGER = (
    "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this"
    " message. "
)
NO_QUORUM = (
    "Removing this node leaves {left} managers out of {all}. Without a Raft quorum your swarm will"
    " be inaccessible. "
)
ONLY_WAY = (
    "The only way to restore a swarm that has lost consensus is to reinitialize it with"
    " `--force-new-cluster`. Use `--force` to suppress this message."
)


class HostNode:
    """`api.backend.Node`. Outside a swarm until `resume`, `init` or `join`."""

    def __init__(
        self,
        info: HostInfo,
        environment: NodeEnvironment,
        choose_addresses: ChooseAddresses,
        inside: Inside,
        exchange: ImageExchange,
    ) -> None:
        self.info = info
        self.engine = environment.engine
        self.image_exchange = RecordedExchange(exchange, self.engine.images)
        self.containers = self.engine.runtime
        self.images = self.engine.images
        self.volumes = self.engine.volumes
        self.networks = self.engine.local
        self.plain = PlainContainers(self.engine, info.hostname)
        self._reattachment = Reattachment(self.engine, self.plain)
        self.inside = inside
        self._environment = environment
        self._choose_addresses = choose_addresses
        self._metrics = HostMetrics(info, self.engine, environment.data)
        self._member: SwarmNode | None = None
        self._damage = ""
        """Why the node cannot tell of which swarm it is a member."""
        self._changing = asyncio.Lock()
        """Held while the node enters or leaves a swarm."""
        self._engine_run: asyncio.Task[None] | None = None
        self._resuming: asyncio.Task[None] | None = None
        """Waits for the host's address, if the host has lost it."""
        self._address = AddressWatch(self._check_address)
        self._watching: asyncio.Task[None] | None = None

    async def resume(self) -> None:
        self.engine.resume()
        self._engine_run = asyncio.create_task(self.engine.run(), name="engine")
        self.plain.resume()
        self._reattachment.resume()
        self._watching = asyncio.create_task(self._address.run(), name="address watch")
        try:
            await self._resume_member()
        except NoSuchAddress as error:
            self._damage = NO_ADDRESS.format(cause=error)
            log.error("swarm.no_address cause=%s", self._damage)
            self.engine.network.go_without_swarm()
            self._resuming = asyncio.create_task(self._resume_later(), name="address")

    async def _resume_member(self) -> None:
        """Raises `NoSuchAddress`."""
        try:
            self._member = await SwarmNode.resume(self._environment)
            self._damage = ""
            if self._member is None:
                self.engine.network.desire_swarm(None)
        except Damaged as error:
            self._damage = str(error)
            log.error("swarm.damaged cause=%s", error)
            self.engine.network.go_without_swarm()

    async def _resume_later(self) -> None:
        """Returns when the host has its address again, or the membership was given up."""
        while True:
            await asyncio.sleep(ADDRESS_PAUSE)
            async with self._changing:
                if not self._damage:
                    return
                with contextlib.suppress(NoSuchAddress):
                    await self._resume_member()
                    log.info("swarm.address_back")
                    return

    def _check_address(self) -> None:
        """Raises `NoSuchAddress`."""
        if self._member is not None:
            own = self._member.member
            self._environment.facts(own.node, own.data_path_address)

    async def close(self) -> None:
        """Stops the member; containers, networks and traffic go on."""
        for task in (self._resuming, self._watching):
            if task is not None:
                await ended(task)
        if self._member is not None:
            await self._member.close()
        await self._reattachment.close()
        await self.plain.close()
        if self._engine_run is not None:
            await ended(self._engine_run)
        await self.engine.close()

    async def host_stops(self) -> None:
        """The host is being shut down: see `Agent.host_stops`."""
        if self._member is not None:
            await self._member.agent.host_stops()

    async def failed(self) -> None:
        """Waits as long as all parts run; raises the error that ended a part unexpectedly."""
        while True:
            member = self._member
            if member is not None:
                await member.failed()
            await asyncio.sleep(1)

    # --- swarm

    @property
    def membership(self) -> Membership:
        if self._member is not None:
            found = self._member.membership
            return msgspec.structs.replace(found, error=found.error or self._address.lost)
        return Membership(state="error", error=self._damage) if self._damage else Membership()

    def swarm(self) -> Swarm:
        if self._member is None:
            raise Unavailable(self._damage or NO_SWARM)
        if self._member.manager is None:
            found = self._member.membership
            if found.state in ("error", "locked"):
                raise Unavailable(found.error)
            raise Unavailable((found.error or NO_MAJORITY) if found.is_manager else WORKER)
        return self._member.manager.swarm

    async def init(self, request: InitRequest) -> NodeId:
        async with self._changing:
            if self._member is not None and request.force_new_cluster:
                if self._member.is_locked:
                    raise Unavailable(LOCKED)
                await self._member.go_on_alone()
                log.info("swarm.forced node=%s", self._member.member.node)
                return self._member.member.node
            self._check_free()
            listen, advertise, data_path = self._choose_addresses(
                request.listen_address, request.advertise_address, request.data_path_address
            )
            request = msgspec.structs.replace(request, listen_address=listen)
            self._member = await SwarmNode.found(self._environment, request, advertise, data_path)
            log.info("swarm.created node=%s advertise=%s", self._member.member.node, advertise)
            return self._member.member.node

    def _check_free(self) -> None:
        if self._damage:
            raise Unavailable(self._damage)
        if self._member is not None:
            raise Unavailable(ALREADY)

    async def join(self, request: JoinRequest) -> None:
        async with self._changing:
            self._check_free()
            listen, advertise, data_path = self._choose_addresses(
                request.listen_address, request.advertise_address, request.data_path_address
            )
            request = msgspec.structs.replace(request, listen_address=listen)
            self._member = member = await SwarmNode.enter(
                self._environment, request, advertise, data_path
            )
            if not await member.settled(JOIN_PATIENCE):
                raise Unavailable(STILL_JOINING)
            log.info("swarm.joined node=%s advertise=%s", self._member.member.node, advertise)

    async def unlock(self, key: str) -> None:
        async with self._changing:
            member = self._member
            if member is not None and member.is_locked:
                await member.unlock(unlock_key.parse(key))
                return
            if member is None or not member.is_manager:
                self.swarm()  # says why there is none
            raise Conflict("swarm is not locked")

    async def leave(self, force: bool) -> None:
        async with self._changing:
            member = self._member
            if member is None and self._damage:
                if not force:
                    raise FailedPrecondition(self._damage)
                await forget(self._environment.data, self._environment.run)
                self.engine.local.leave_swarm()
                self.engine.network.desire_swarm(None)
                log.info("swarm.left cause=its membership could not be read")
                self._damage = ""
                return
            if member is None:
                raise Unavailable("This node is not part of a swarm")
            if member.is_locked and not force:
                raise Unavailable(LOCKED_LEAVING)
            if member.is_manager and not force:
                swarm = member.manager.swarm if member.manager is not None else None
                raise Unavailable(LEAVING_MANAGER + _what_leaving_means(swarm))
            await self._reattachment.leave_swarm()
            self._member = None
            try:
                await member.leave(force)
            finally:
                self.engine.local.leave_swarm()
                self.engine.network.desire_swarm(None)
            log.info("swarm.left node=%s", member.member.node)

    # --- containers, networks and events of this host

    def tell(self, action: str, container: Container, **attributes: str) -> None:
        self.engine.events.container(action, container, **attributes)

    async def stop_container(
        self, container: Container, grace: Nanoseconds, signal: str = ""
    ) -> None:
        await self._owner(container).stop(container, grace, signal)

    async def kill_container(self, container: Container, signal: str) -> None:
        await self._owner(container).kill(container, signal)

    async def remove_container(self, id: ContainerId, *, volumes: bool) -> None:
        container = self.engine.container(id)
        owner = self.engine if container is None else self._owner(container)
        await owner.remove(id, volumes=volumes)

    def _owner(self, container: Container) -> Engine | PlainContainers:
        """The part that ends the container. The agent notices by itself when a task's ends."""
        return self.plain if container.is_plain else self.engine

    async def connect_container(self, container: Container, settings: EndpointSettings) -> None:
        if not container.is_plain:
            raise Unsupported(
                f"cannot connect container {container.config.name} to network {settings.network}:"
                " it is a task's: use `docker service update --network-add` for its service"
            )
        await self.plain.connect(container, settings)

    async def disconnect_container(self, container: Container, network: str, force: bool) -> None:
        if not container.is_plain and network in self.container_networks(container.id):
            raise Unsupported(
                f"cannot disconnect container {container.config.name} from network {network}: it is"
                " a task's: use `docker service update --network-rm` for its service"
            )
        if not container.is_plain:
            raise NotFound(f"container {container.id} is not connected to network {network}")
        await self.plain.disconnect(container, network, force)

    @property
    def _networking(self) -> Networking | None:
        """The swarm's part of the network; None while the node is in no swarm."""
        return self._member.agent.networking if self._member is not None else None

    def local_networks(self) -> Sequence[LocalNetwork]:
        networking = self._networking
        return (
            networking.local_networks() if networking is not None else self.engine.local_networks()
        )

    def container_networks(
        self, id: ContainerId
    ) -> Mapping[str, tuple[LocalNetwork, LocalEndpoint]]:
        networking = self._networking
        swarm = networking.container_networks(id) if networking is not None else {}
        return {**self.engine.local.endpoints(id), **swarm}

    def container_gateway(self, id: ContainerId) -> LocalEndpoint | None:
        return self._networking.container_gateway(id) if self._networking is not None else None

    def health(self, container: Container) -> Health | None:
        return self.engine.health.of(container)

    async def examine(self, repair: bool) -> Report:
        member = self._member
        if member is not None and member.manager is not None:
            report = await member.manager.examine(repair)
            # Without its address this host reaches nobody, itself included.
            lost = self._critical(self._address.lost)
            return msgspec.structs.replace(report, findings=(*lost, *report.findings))
        found = self._critical(self.membership.error)
        if member is not None:
            told = await member.agent.examine(repair)
        else:
            mended = await mend(self.engine, None) if repair else ()
            own = [*await examine_network(self.engine, None)]
            own += await self._environment.host.examine()
            told = Examination(findings=few(own), mended=mended)
        return Report(
            findings=ordered([*found, *told.findings]),
            mended=tuple((self.info.hostname, what) for what in told.mended),
        )

    @staticmethod
    def _critical(trouble: str) -> list[Finding]:
        return [Finding(severity="critical", what="swarm", cause=trouble)] if trouble else []

    async def metrics(self, requests: RequestTally) -> str:
        return await self._metrics.text(self._member, requests)

    def events(self, since: int = 0, until: int = 0) -> AsyncIterator[NodeEvent]:
        return self.engine.events.listen(since, until)


def _what_leaving_means(swarm: Swarm | None) -> str:
    """The warning to a manager that leaves without having been demoted."""
    if swarm is None:
        return "Doing so may lose the consensus of your cluster. " + ONLY_WAY
    managers = [node.id for node in swarm.state.nodes.values() if node.manager_address]
    reachable = len(swarm.leadership_status.present.intersection(managers))
    if len(managers) <= 1:
        return LAST_MANAGER
    if 2 * (reachable - 1) <= len(managers):
        return NO_QUORUM.format(left=reachable - 1, all=len(managers)) + ONLY_WAY
    return ONLY_WAY
