"""The swarm's part of a node's network: connects the sandboxes of tasks, in the kernel, with
encryption and names.

    desire  ─▶ encryption: may networks be up? ─▶ network loop ─▶ kernel
    connect ─▶ the ESP engine protects the networks, the kernel has the sandbox ─▶ names are
               answered

Each `desire` gives the whole part. Before the first one nothing is touched, and the end of `run`
leaves everything as it is. The network loop is the engine's, which has a part of its own there."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

import msgspec

from weft.dns.zone import NameCache, Zone, zone_for
from weft.engine import views
from weft.engine.encryption import Encryption
from weft.engine.engine import Engine
from weft.engine.footprint import of_sandbox
from weft.engine.local_allocation import taken_port
from weft.engine.plain_places import named
from weft.engine.resolver import REOPEN_PAUSE, Resolvers
from weft.engine.trace import passage, unresolved
from weft.errors import OperationFailed, WeftError, clip
from weft.linux.base import ConnectionWatch, PacketTap
from weft.model.assignment import Overlays
from weft.model.capture import CaptureWanted, Instruction
from weft.model.flows import TrackedTable
from weft.model.ids import ContainerId, NetworkId, NodeId, WorkloadId
from weft.model.local_network import LocalEndpoint, LocalNetwork
from weft.model.probe import Spot
from weft.model.sandbox import NodeFacts, Sandbox
from weft.model.service import PublishedPort
from weft.model.trace import Asked, Entry, Flow, FromProcess, Passage
from weft.model.workload import Resident, Workload
from weft.network.desired import SwarmPart
from weft.network.ownership import ESP_SANDBOX, overlay_namespace
from weft.network.parties import FlowPlace, Parties, parties, places
from weft.network.readings import Reading, readings
from weft.network.sandbox import hides_gateway
from weft.network.vantage import Vantage, vantages, wire_filter
from weft.system.supervision import lasting

log = logging.getLogger(__name__)


class Networking:
    def __init__(self, engine: Engine, facts: NodeFacts) -> None:
        adapters = engine.adapters.network
        self.facts = facts
        self._engine = engine
        self.loop = engine.network
        self._encryption = Encryption(
            adapters.esp, adapters.no_esp, facts, self._desire, self.loop.settled
        )
        self._names = NameCache()
        self._resolvers: Resolvers[Sandbox] = Resolvers(
            adapters, self._zone, self._name_servers, engine.names
        )
        self._overlays = Overlays()
        self._residents: dict[WorkloadId, Resident] = {}

    async def run(self) -> None:
        """Runs until cancelled. The network stays as it is; names are no longer answered."""
        try:
            await lasting("encryption", self._encryption.run)
            await asyncio.Event().wait()  # without an engine there is nothing to encrypt
        finally:
            self._resolvers.close_all()

    async def teardown(self) -> None:
        """Removes everything of the swarm, as far as possible; then raises what could not be
        removed. Never call this while `run` runs."""
        errors: list[Exception] = []
        try:
            await self.loop.leave_swarm()
        except* WeftError as group:
            errors.extend(group.exceptions)
        try:
            await self._encryption.teardown()
        except WeftError as error:
            errors.append(error)
        if errors:
            raise ExceptionGroup("cannot remove the network", errors)

    def new_id(self) -> str:
        """A new id for a sandbox."""
        return self._engine.new_id()

    def plain_sandboxes(self) -> list[Sandbox]:
        """Those of this node's own containers on networks of the swarm."""
        return self._engine.local.overlay_sandboxes()

    # --- the desired state

    def desire(self, overlays: Overlays, residents: Iterable[Resident]) -> None:
        """Sets the desired state from now on."""
        before = self._overlays
        self._overlays, self._residents = overlays, {r.workload.id: r for r in residents}
        self._desire()
        self._tell_networks("create", overlays, before)
        self._tell_networks("destroy", before, overlays)

    def check(self, workload: Workload) -> None:
        """Raises `OperationFailed` for a workload that could not be on its networks here, or whose
        host-mode port a program of this host has."""
        cause = hides_gateway(workload, self._overlays.networks, self.facts)
        if cause is not None:
            raise OperationFailed(cause)
        for port in workload.ports:
            if port.mode == "host" and port.published:
                self._check_port(port)

    def _check_port(self, port: PublishedPort) -> None:
        if self._engine.local.publishes(port):
            raise taken_port(port.host_address, port.published)
        self._engine.adapters.network.check_port(port.protocol, port.published, port.host_address)

    async def protected(self, network: NetworkId) -> None:
        """Returns when the network, if it is encrypted, may carry traffic. Raises
        `OperationFailed`."""
        view = self._overlays.networks.get(network)
        if view is not None and view.definition.encrypted:
            await self._encryption.ready(view.definition.name)

    async def connect(self, sandbox: Sandbox) -> None:
        """Returns when network and names work for the sandbox, which must have been desired. Raises
        `OperationFailed`."""
        with self._engine.network_actions.timed("connect"):
            await self._connect(sandbox)
        self._tell("connect", sandbox)

    async def _connect(self, sandbox: Sandbox) -> None:
        for network in sandbox.ports:
            await self.protected(network)
        await self._answer(sandbox)

    async def release(self, sandbox: Sandbox) -> None:
        """Returns when nothing of the sandbox, which must be no longer desired, is left in the
        kernel."""
        self._resolvers.close(sandbox)
        with self._engine.network_actions.timed("release"):
            await self.loop.gone(of_sandbox(sandbox))
        self._tell("disconnect", sandbox)

    async def answer_again(self, sandbox: Sandbox) -> None:
        """Answers names again, for a container that was running before this daemon started. Tries
        until that works, or the sandbox is no longer desired."""
        while self._is_resident(sandbox):
            try:
                await self._answer(sandbox)
                return
            except WeftError as error:
                log.warning("resolver.reopen_failed workload=%s cause=%s", sandbox.workload, error)
                await asyncio.sleep(REOPEN_PAUSE)

    @property
    def overlays(self) -> Overlays:
        """The desired ones."""
        return self._overlays

    @property
    def encryption_failure(self) -> str:
        """Why the ESP engine does not do what it should; empty if it does."""
        return self._encryption.failure

    @property
    def sandboxes(self) -> int:
        """Number of sandboxes in the desired state."""
        return len(self._residents)

    @property
    def networks(self) -> int:
        """Number of networks in the desired state, besides those of every host."""
        return len(self._overlays.networks)

    # --- what a capture sees

    def vantages(self, wanted: CaptureWanted) -> list[Vantage]:
        return list(vantages(self._overlays, self._everybody, wanted))

    async def open_tap(
        self, vantage: Vantage, program: Sequence[Instruction], memory: int
    ) -> PacketTap:
        """Raises `WeftError`."""
        adapters = self._engine.adapters.network
        if not vantage.device:
            device = adapters.uplink(self.facts.data_path_address)
            program = wire_filter(self._overlays.data_path_port)
            return await adapters.open_tap(None, device, program, memory)
        path = adapters.file(vantage.namespace)
        return await adapters.open_tap(path, vantage.device, program, memory)

    # --- connections

    @property
    def node(self) -> NodeId:
        return self.facts.node

    def flow_places(self) -> list[FlowPlace]:
        """The namespaces that track connections, the host's first."""
        engine = self._engine
        own = filter(None, map(engine.local.sandbox, engine.containers))
        return places(self._everybody, {place.key: place.name for place in own})

    def parties(self) -> Parties:
        """Who has which address, as of now."""
        local = self._engine.local
        return parties(self._overlays, self.facts, self._everybody, local.shown())

    async def read_connections(self, place: FlowPlace, most: int) -> TrackedTable:
        """Raises `OperationFailed`."""
        adapters = self._engine.adapters.network
        return await adapters.read_connections(adapters.file(place.namespace), most)

    async def watch_connections(self, place: FlowPlace) -> ConnectionWatch:
        """Raises `OperationFailed`."""
        adapters = self._engine.adapters.network
        return await adapters.watch_connections(adapters.file(place.namespace))

    # --- counters

    def readings(self) -> list[Reading]:
        """The namespaces of tasks and of this node's own containers."""
        engine = self._engine
        found = {each.namespace: each for each in readings(self._overlays, self._everybody)}
        for place in filter(None, map(engine.local.sandbox, engine.containers)):
            own = Reading(place.key, place.name, "", place.container, {})
            found.setdefault(place.key, own)
        return list(found.values())

    def tunnels(self) -> dict[str, str]:
        views = self._overlays.networks.values()
        return {overlay_namespace(v.definition.id): v.definition.name for v in views}

    def peers(self) -> dict[NodeId, IPv4Address]:
        """Other nodes on the networks here."""
        return {
            endpoint.node: endpoint.vtep
            for view in self._overlays.networks.values()
            for endpoint in view.endpoints.values()
            if endpoint.node != self.facts.node
        }

    def pid(self, container: ContainerId) -> int:
        found = self._engine.container(container)
        return found.pid if found is not None else 0

    # --- a packet's way

    async def passage(
        self, entry: Entry, flows: Sequence[Flow], task: WorkloadId | None, name: str
    ) -> Passage:
        """The way of a packet through this host's kernel as it is. `task`: the workload whose
        process sends it; `name`: what the process looks up first. Raises `OperationFailed`."""
        asked = None
        if task is not None and isinstance(entry, FromProcess):
            entry = self._from_workload(entry, task)
            if name:
                asked = Asked(name, self._looked_up(task, name))
                if not asked.addresses:
                    return unresolved(entry.namespace, asked, self._labels)
                packet = entry.packet._replace(destination=asked.addresses[0])
                entry = msgspec.structs.replace(entry, packet=packet)
        kernel, seals = self._engine.adapters.network.kernel, self._encryption.seals
        found = await passage(kernel, entry, flows, seals, self._labels)
        return msgspec.structs.replace(found, asked=asked)

    def from_container(self, entry: Entry, reference: str) -> Entry:
        """The same, sent by a container of the engine's own; without a reference as it is. Raises
        `OperationFailed`."""
        if not reference or not isinstance(entry, FromProcess):
            return entry
        place = named(self._engine.local.places(), reference)
        if place is None:
            raise OperationFailed(
                f"cannot trace: no running container {clip(reference)} with a network of its own is"
                " on this node"
            )
        return msgspec.structs.replace(entry, namespace=place.key)

    def spots(self, task: WorkloadId) -> list[Spot]:
        """The interfaces of a workload's sandbox on its networks; none if it is not here."""
        resident = self._residents.get(task)
        if resident is None:
            return []
        sandbox, workload = resident
        return [
            Spot(sandbox.key, sandbox.interface(attachment.network, place))
            for place, attachment in enumerate(workload.attachments)
            if attachment.network in sandbox.ports
        ]

    def _from_workload(self, entry: FromProcess, task: WorkloadId) -> FromProcess:
        resident = self._residents.get(task)
        if resident is None:
            raise OperationFailed(f"cannot trace: task {task} has no sandbox on this node")
        return msgspec.structs.replace(entry, namespace=resident.sandbox.key)

    def _looked_up(self, task: WorkloadId, name: str) -> tuple[IPv4Address, ...] | None:
        resident = self._residents[task]
        return zone_for(self._overlays, resident.workload, self._names).addresses(name)

    @property
    def _labels(self) -> dict[str, str]:
        """Namespaces by what they are for."""
        containers = {place.key: place.name for place in self._engine.local.places()}
        containers |= {place.sandbox.key: place.workload.name for place in self._everybody}
        networks = {
            overlay_namespace(id): f"network {view.definition.name}"
            for id, view in self._overlays.networks.items()
        }
        return containers | networks | {ESP_SANDBOX: "ESP engine"}

    # --- what the API shows

    def local_networks(self) -> list[LocalNetwork]:
        connected = views.connected_networks(
            self._overlays, self._everybody, self.facts, self._engine.containers
        )
        # What has no time of its own was made by this daemon.
        dated = [
            network
            if network.created_at
            else msgspec.structs.replace(network, created_at=self._engine.started_at)
            for network in connected
        ]
        return sorted([*self._engine.local_networks(), *dated], key=lambda network: network.name)

    def container_networks(self, id: ContainerId) -> dict[str, tuple[LocalNetwork, LocalEndpoint]]:
        return views.container_networks(
            id, self._overlays, self._everybody, self.facts, self._engine.containers
        )

    def container_gateway(self, id: ContainerId) -> LocalEndpoint | None:
        return views.container_gateway(id, self._overlays, self._everybody, self.facts)

    # ---

    @property
    def _here(self) -> Sequence[Resident]:
        """Those of tasks."""
        return tuple(self._residents.values())

    @property
    def _everybody(self) -> Sequence[Resident]:
        return (*self._here, *self._engine.local.residents())

    def _is_resident(self, sandbox: Sandbox) -> bool:
        resident = self._residents.get(sandbox.workload)
        return resident is not None and resident.sandbox == sandbox

    def _desire(self) -> None:
        overlays = self._encryption.desire(self._overlays)
        if overlays is None:
            self.loop.postpone()
        else:
            in_force = self._encryption.policies_in_force
            self.loop.desire_swarm(SwarmPart(overlays, self.facts, self._here, in_force))

    async def _answer(self, sandbox: Sandbox) -> None:
        await self.loop.ready(of_sandbox(sandbox))
        await self._resolvers.open(sandbox)

    def _zone(self, sandbox: Sandbox) -> Zone:
        resident = self._residents.get(sandbox.workload)
        return zone_for(
            self._overlays, resident.workload if resident is not None else None, self._names
        )

    def _name_servers(self, sandbox: Sandbox) -> tuple[str, ...]:
        resident = self._residents.get(sandbox.workload)
        return resident.workload.spec.dns_servers if resident is not None else ()

    def _tell_networks(self, action: str, overlays: Overlays, without: Overlays) -> None:
        """Of networks that reach this node from now on, or no longer do."""
        for id, view in overlays.networks.items():
            if id not in without.networks:
                attributes = {"name": view.definition.name, "type": "overlay"}
                self._engine.events.record("network", action, id, attributes)

    def _tell(self, action: str, sandbox: Sandbox) -> None:
        for id in sandbox.ports:
            view = self._overlays.networks.get(id)
            name = view.definition.name if view is not None else ""
            attributes = {"container": sandbox.container, "name": name, "type": "overlay"}
            self._engine.events.record("network", action, id, attributes)
