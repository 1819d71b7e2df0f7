"""This node's own networks, and its own containers on them and on networks of the swarm
(`local_overlays.py`); in a swarm or not.

    create, remove     networks that users made; `bridge` is always there
    connect            addresses, ports of the host ─▶ disk ─▶ network loop ─▶ kernel ─▶ names
    disconnect         the other way round

What is chosen is on disk before it is used, so the next daemon finds every address and port that a
running container has. Networks outlive a loss of power; sandboxes do not, and neither do running
containers.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec

from weft.dns.local_zone import local_zone
from weft.dns.zone import NameCache, Zone
from weft.engine import local_views
from weft.engine.adapters import NetworkAdapters, Origin
from weft.engine.events import EventLog
from weft.engine.footprint import of_bridge, of_local
from weft.engine.local_book import NONE, LocalBook
from weft.engine.local_overlays import LocalOverlays
from weft.engine.name_tally import NameTally
from weft.engine.network import NetworkLoop
from weft.engine.resolver import REOPEN_PAUSE, Resolvers
from weft.errors import Forbidden, NotFound, OperationFailed, Unavailable, WeftError
from weft.model.bridge_network import SHORT_ID, BridgeNetwork, BridgeNetworkSpec
from weft.model.container import Container, ContainerState
from weft.model.endpoint_settings import EndpointSettings
from weft.model.ids import AttachmentId, ContainerId, NetworkId
from weft.model.local_network import LocalEndpoint, LocalNetwork
from weft.model.local_sandbox import BridgeEndpoint, LocalSandbox, OverlayEndpoint
from weft.model.sandbox import Sandbox
from weft.model.service import ContainerSpec, PublishedPort
from weft.model.workload import Resident
from weft.network import bridge
from weft.network.attached import resident_of

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds that a container waits for its network."""
NOT_CONNECTED = "container {} is not connected to network {}"
LATE = "cannot set up the network: nothing happened for {:.0f} s"


def _nobody(container: ContainerId, network: str) -> None:
    """Nobody cares."""


class LocalNetworks:
    def __init__(
        self,
        loop: NetworkLoop,
        adapters: NetworkAdapters,
        events: EventLog,
        containers: Callable[[], Iterable[Container]],
        origin: Origin,
        default: NetworkId,
        names: NameTally,
    ) -> None:
        """`default`: id of the network `bridge`."""
        self._loop = loop
        self._events = events
        self._containers = containers
        self._book = LocalBook(adapters, origin, default, lambda: loop.swarm)
        self.overlays = LocalOverlays(self._book, loop)
        self.lost: Callable[[ContainerId, str], None] = _nobody
        """Called when a running container has lost its place on the network of that name."""
        self._names = NameCache()
        self._resolvers: Resolvers[LocalSandbox] = Resolvers(
            adapters, self._zone, lambda place: place.dns_servers, names
        )
        self._beside: set[asyncio.Task[None]] = set()

    def load(self) -> None:
        """Finds the networks and the running containers' sandboxes of the previous daemon. Raises
        `OperationFailed` if the disk fails."""
        running = (c.config.id for c in self._containers() if c.state is ContainerState.RUNNING)
        self._book.load(running)
        self._desire()

    def resume(self) -> None:
        """Answers names again in the sandboxes of containers that were running before this daemon
        started."""
        for place in self._book.sandboxes.values():
            self._spawn(self._answer_again(place))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    def close(self) -> None:
        """Names are no longer answered; all else stays as it is."""
        for task in tuple(self._beside):
            task.cancel()
        self._resolvers.close_all()

    # --- networks

    def all(self) -> list[BridgeNetwork]:
        """By name, with the default one."""
        return self._book.all()

    def get(self, reference: str) -> BridgeNetwork:
        """`reference`: name, id or the beginning of an id. Raises `NotFound`, or `InvalidArgument`
        for an ambiguous one."""
        return self._book.get(reference)

    def subnets(self) -> list[IPv4Network]:
        """Subnets that are in use, or promised to users."""
        return self._book.subnets()

    async def create(self, spec: BridgeNetworkSpec) -> BridgeNetwork:
        """Returns when the bridge is there: all or nothing. Raises `Conflict`, `Forbidden`,
        `Exhausted`, `Unavailable` or `OperationFailed`."""
        network = self._book.new_network(spec)
        self._book.add(network)
        self._desire()
        try:
            await self._until(self._loop.ready(of_bridge(network)))
        except BaseException:
            self._forget(network)
            raise
        self._tell(network, "create")
        return network

    async def remove(self, reference: str) -> None:
        """Returns when the bridge is gone. Raises `NotFound`, or `Forbidden` if containers are on
        the network or it is predefined."""
        network = self.get(reference)
        if network.is_default:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        users = [
            f'name:"{place.name}" id:"{local_views.endpoint_id(network, place)[:SHORT_ID]}"'
            for place in self._book.on(network)
        ]
        if users:
            raise Forbidden(
                f"error while removing network: network {network.name} has active endpoints"
                f" ({', '.join(users)})"
            )
        self._forget(network)
        await self._until(self._loop.gone(of_bridge(network)))
        self._tell(network, "destroy")

    async def prune(self, wanted: Callable[[BridgeNetwork], bool]) -> list[str]:
        """Removes networks without running containers. Gives the names of the removed ones."""
        idle = [n for n in self.all() if not n.is_default and wanted(n) and not self._book.on(n)]
        removed = []
        for network in idle:
            try:
                await self.remove(network.id)
            except (NotFound, Forbidden):
                continue  # somebody has removed it, or uses it now
            removed.append(network.name)
        return removed

    # --- containers

    async def connect(
        self,
        container: ContainerId,
        name: str,
        spec: ContainerSpec,
        wanted: Sequence[EndpointSettings],
        ports: Sequence[PublishedPort],
    ) -> LocalSandbox:
        """Gives a container that is about to start its network: all or nothing. Returns when the
        namespace, the published ports and the names work. `name`: the container's. `wanted`: at
        least one network, this node's or the swarm's; `none` stands alone, and `host` is not for
        here. A published port of 0 stands for a free one. Raises a `WeftError` with Docker's
        text."""
        await self.disconnect(container)
        place = LocalSandbox(
            container=container,
            name=name,
            sysctls=dict(spec.sysctls),
            dns_servers=spec.dns_servers,
            dns_options=spec.dns_options,
            hostname=spec.hostname,
        )
        granted: list[AttachmentId] = []
        try:
            if [each.network for each in wanted] != [NONE]:
                for settings in wanted:
                    place = await self._placed(place, settings, granted)
                place = self._book.with_ports(place, ports)
            self._put(place)
            await self._ready(place)
        except BaseException:
            await asyncio.shield(self._take_back(container))
            raise
        finally:
            self.overlays.decided(granted)
        self._tell_endpoints("connect", place)
        return place

    async def _placed(
        self, place: LocalSandbox, settings: EndpointSettings, granted: list[AttachmentId]
    ) -> LocalSandbox:
        """The container on one more network. `granted`: gets the place, if it is on the swarm's."""
        if self._book.is_own(settings.network):
            return self._book.with_endpoint(place, settings)
        grant = await self.overlays.grant(place, settings)
        granted.append(grant.id)
        return self.overlays.with_place(place, settings, grant)

    async def disconnect(self, container: ContainerId) -> None:
        """Returns when nothing of the container is left in the kernel. One that is not connected
        is no error."""
        place = self._book.sandboxes.get(container)
        if place is None:
            return
        await self._take_back(container)
        self._tell_endpoints("disconnect", place)

    async def attach(self, container: ContainerId, settings: EndpointSettings) -> None:
        """Connects a container that has a sandbox to one more network: all or nothing."""
        before = self._book.place(container)
        if not self._book.is_own(settings.network):
            await self._attach_overlay(before, settings)
            return
        place = self._book.with_endpoint(before, settings)
        self._put(place)
        try:
            await self._ready(place)
        except BaseException:
            if self._book.sandboxes.get(container) is place:
                self._put(before)
            raise
        self._tell_endpoint("connect", place, place.endpoints[-1])

    async def detach(self, container: ContainerId, network: str, force: bool = False) -> None:
        """Takes a container that has a sandbox off a network. `force`: a container that is not
        there is no error."""
        before = self._book.sandboxes.get(container)
        if before is not None and (there := before.overlay(network)) is not None:
            await self._drop_overlay(before, there)
            return
        if self.overlays.attacher is not None and not self._book.is_own(network):
            if force:
                return
            raise OperationFailed(NOT_CONNECTED.format(container, network))
        found = self.get(network)
        gone = [e for e in before.endpoints if e.network == found.id] if before else []
        if before is None or not gone:
            if force:
                return
            raise OperationFailed(NOT_CONNECTED.format(container, found.name))
        left = tuple(e for e in before.endpoints if e.network != found.id)
        place = msgspec.structs.replace(before, endpoints=left)
        self._put(place)
        if not bridge.has_names(place, self._book.networks):
            self._resolvers.close(place)
        await self._until(self._loop.gone(of_local(before, self._book.networks)))
        self._tell_endpoint("disconnect", before, gone[0])

    async def _attach_overlay(self, place: LocalSandbox, settings: EndpointSettings) -> None:
        container, overlays = place.container, self.overlays
        granted = await overlays.grant(place, settings)
        try:
            # The container may have lost its sandbox, or got another network, meanwhile.
            present = overlays.with_place(self._book.place(container), settings, granted)
            self._put(present)
            await self._ready(present)
        except BaseException:
            await asyncio.shield(self._take_back_overlay(container, granted.id))
            raise
        finally:
            overlays.decided([granted.id])
        self._tell_endpoint("connect", present, present.overlays[-1])

    async def _take_back_overlay(self, container: ContainerId, id: AttachmentId) -> None:
        place = self._book.sandboxes.get(container)
        for endpoint in place.overlays if place is not None else ():
            if place is not None and endpoint.attachment == id:
                await self._drop_overlay(place, endpoint)

    async def _drop_overlay(self, before: LocalSandbox, gone: OverlayEndpoint) -> None:
        """Returns when the kernel has forgotten the place."""
        left = tuple(e for e in before.overlays if e.attachment != gone.attachment)
        gateway = before.gateway if left else None
        self.overlays.hold([gone.attachment])
        try:
            place = msgspec.structs.replace(before, overlays=left, gateway=gateway)
            self._put(place)
            if not bridge.has_names(place, self._book.networks):
                self._resolvers.close(place)
            only = msgspec.structs.replace(before, endpoints=(), overlays=(gone,))
            await self._until(self._loop.gone(of_local(only, self._book.networks)))
        finally:
            self.overlays.decided([gone.attachment])
        self._tell_endpoint("disconnect", before, gone)

    def lose(self, id: AttachmentId) -> None:
        """The managers know nothing of the place any more, and others may get its address. The
        container leaves the network; `lost` is called when it has."""
        place = self.overlays.held().get(id)
        if place is None:
            return
        endpoint = next(e for e in place.overlays if e.attachment == id)
        log.warning("container.place_lost container=%s network=%s", place.container, endpoint.name)
        self.overlays.hold([id])
        self._spawn(self._lose(place.container, endpoint))

    async def _lose(self, container: ContainerId, endpoint: OverlayEndpoint) -> None:
        try:
            await self._take_back_overlay(container, endpoint.attachment)
        except WeftError as error:
            log.warning("container.place_left container=%s cause=%s", container, error)
        finally:
            self.overlays.decided([endpoint.attachment])
        self.lost(container, endpoint.name)

    def leave_swarm(self) -> None:
        """No container has a place on a network of the swarm any more."""
        for place in tuple(self._book.sandboxes.values()):
            if place.overlays:
                place = msgspec.structs.replace(place, overlays=(), gateway=None)
                self._put(place)
                if not bridge.has_names(place, self._book.networks):
                    self._resolvers.close(place)

    def rename(self, container: ContainerId, name: str) -> None:
        """The container has another name from now on."""
        place = self._book.sandboxes.get(container)
        if place is not None:
            self._put(msgspec.structs.replace(place, name=name))
            self.overlays.renamed()

    # --- what running containers have

    def name_of(self, reference: str) -> str | None:
        """The name of a network, this node's or the swarm's, as far as this node knows it.
        `reference`: name, id or the beginning of an id. Raises `InvalidArgument` for an ambiguous
        one."""
        try:
            return self.get(reference).name
        except NotFound:
            return self.overlays.name_of(reference)

    def host_address(self, container: ContainerId) -> IPv4Address:
        """This host, as the container sees it."""
        return self._book.host_address(container)

    def is_on(self, container: ContainerId, reference: str) -> bool:
        """Whether a container is on a network of this node or of the swarm."""
        return self._book.is_on(container, reference)

    def overlay_sandboxes(self) -> list[Sandbox]:
        """Those of containers on networks of the swarm, as the swarm's part sees them."""
        return self._book.overlay_sandboxes()

    def residents(self) -> list[Resident]:
        """These containers, as the swarm's part sees them."""
        places = self._book.sandboxes.values()
        found = (resident_of(place, self._book.networks) for place in places)
        return [resident for resident in found if resident is not None]

    def places(self) -> Iterable[LocalSandbox]:
        return self._book.sandboxes.values()

    def sandbox(self, container: ContainerId) -> LocalSandbox | None:
        """None for a container that is not connected."""
        return self._book.sandboxes.get(container)

    def has_names(self, container: ContainerId) -> bool:
        """Whether a name server answers in the container's sandbox, at `RESOLVER_ADDRESS`: on
        networks that users made. Otherwise the host's name servers are for the container."""
        place = self._book.sandboxes.get(container)
        return place is not None and bridge.has_names(place, self._book.networks)

    def ports(self, container: ContainerId) -> tuple[PublishedPort, ...]:
        """With the host's ports that were chosen."""
        place = self._book.sandboxes.get(container)
        return place.ports if place is not None else ()

    def publishes(self, port: PublishedPort) -> bool:
        """Whether the host's port belongs to one of this node's own containers."""
        return self._book.publishes(port)

    def endpoints(self, container: ContainerId) -> Mapping[str, tuple[LocalNetwork, LocalEndpoint]]:
        """By the network's name, in the order of the container's interfaces."""
        place = self._book.sandboxes.get(container)
        if place is None:
            return {}
        found = {}
        for endpoint in place.endpoints:
            network = self._book.networks.get(endpoint.network)
            if network is not None:
                shown = local_views.shown(network, self._book.on(network))
                own = local_views.endpoint(network, place, endpoint)
                found[network.name] = (shown, own)
        return found

    def shown(self) -> list[LocalNetwork]:
        """The networks as the API shows them, by name."""
        return [local_views.shown(network, self._book.on(network)) for network in self.all()]

    # --- carrying out

    def _put(self, place: LocalSandbox) -> None:
        self._book.put(place)
        self._desire()

    async def _ready(self, place: LocalSandbox) -> None:
        await self._until(self._loop.ready(of_local(place, self._book.networks)))
        await self._answer(place)

    async def _answer(self, place: LocalSandbox) -> None:
        if bridge.has_names(place, self._book.networks):
            await self._resolvers.open(place)

    async def _take_back(self, container: ContainerId) -> None:
        place = self._book.sandboxes.get(container)
        if place is None:
            return
        ids = [endpoint.attachment for endpoint in place.overlays]
        self.overlays.hold(ids)
        try:
            self._resolvers.close(place)
            self._book.drop(container)
            self._desire()
            await self._until(self._loop.gone(of_local(place, self._book.networks)))
        finally:
            self.overlays.decided(ids)

    def _forget(self, network: BridgeNetwork) -> None:
        self._book.forget(network)
        self._desire()

    async def _until(self, done: Awaitable[None]) -> None:
        """Raises `Unavailable` if the loop cannot begin."""
        try:
            async with asyncio.timeout(PATIENCE):
                await done
        except TimeoutError:
            raise Unavailable(LATE.format(PATIENCE)) from None

    async def _answer_again(self, place: LocalSandbox) -> None:
        """Names are answered at once if the sandbox is there, as is the rule. A member of a swarm
        may wait for a manager before the network loop begins; running programs must not. But what
        is asked of the swarm's networks has no answer before they are known."""
        if not place.overlays:
            with suppress(WeftError):
                await self._answer(place)
        while (present := self._book.sandboxes.get(place.container)) is not None:
            try:
                await self._ready(present)
                break
            except WeftError as error:
                log.warning("resolver.reopen_failed container=%s cause=%s", place.container, error)
                await asyncio.sleep(REOPEN_PAUSE)
        if place.container not in self._book.sandboxes:  # it has ended while this waited
            self._resolvers.close(place)

    def _zone(self, place: LocalSandbox) -> Zone:
        present = self._book.sandboxes.get(place.container, place)
        return local_zone(
            present,
            self._book.networks,
            self._book.sandboxes.values(),
            self.overlays.views(present),
            self._names,
        )

    def _tell(self, network: BridgeNetwork, action: str) -> None:
        attributes = {"name": network.name, "type": "bridge"}
        self._events.record("network", action, network.id, attributes)

    def _tell_endpoints(self, action: str, place: LocalSandbox) -> None:
        for endpoint in place.endpoints:
            self._tell_endpoint(action, place, endpoint)
        for overlay in place.overlays:
            self._tell_endpoint(action, place, overlay)

    def _tell_endpoint(
        self, action: str, place: LocalSandbox, endpoint: BridgeEndpoint | OverlayEndpoint
    ) -> None:
        if isinstance(endpoint, OverlayEndpoint):
            name, kind = endpoint.name, "overlay"
        elif (network := self._book.networks.get(endpoint.network)) is not None:
            name, kind = network.name, "bridge"
        else:
            return
        attributes = {"container": place.container, "name": name, "type": kind}
        self._events.record("network", action, endpoint.network, attributes)

    def _desire(self) -> None:
        self._loop.desire_local(self._book.part)
