"""Plans the whole desired state of a node's kernel: the swarm's part, from the manager's view of its
networks and the node's own facts, and the part of the node's own networks.

The hops contribute fragments in the order in which a packet meets them; `fragments` puts these
together. Equal input gives an equal state, except for the order in which a service's tasks take
turns. A sandbox without a resident is left out, and so removed. A network goes with the last
sandbox on it, without waiting for the manager.

A planner plans again only the parts whose inputs have changed (`memo`): each contribution names its
inputs. Parts that are long and change with every task are derived from their previous value:
services (`service_table`) and peers (`overlay`). An unchanged namespace is the same object as
before, and `diff` skips it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import msgspec

from weft.model.assignment import NetworkView, Overlays
from weft.model.host_ports import HostPorts
from weft.model.ids import NetworkId
from weft.model.local_sandbox import LocalSandbox
from weft.model.sandbox import NodeFacts, Sandbox
from weft.model.workload import Resident, Workload
from weft.network import (
    attached,
    bridge,
    encryption,
    gateway,
    ingress,
    late_syn,
    loadbalancer,
    overlay,
    reply,
    sandbox,
    source_guard,
    underlay,
)
from weft.network.desired import Desired, LocalPart, SwarmPart
from weft.network.fragments import grouped, serving, union
from weft.network.kernel_state import HOST, KernelState, Namespace
from weft.network.memo import Memo
from weft.network.own_ports import local_ports, own_ports, published, without_own_ports
from weft.network.ownership import INGRESS_SANDBOX, balancer_namespace
from weft.network.sandbox import Outlook
from weft.network.service_table import (
    EMPTY,
    Destination,
    Published,
    Service,
    Services,
    ServiceTable,
    service_table,
)

Parts = tuple[Namespace, ...]
NO_NETWORKS = LocalPart()


def plan(
    overlays: Overlays,
    facts: NodeFacts,
    residents: Sequence[Resident],
    local: LocalPart = NO_NETWORKS,
) -> KernelState:
    """Plans everything of a member of a swarm from nothing."""
    return Planner().plan(Desired(SwarmPart(overlays, facts, residents), local))


class Planner:
    """The planner of one node. Its memory can be lost without harm."""

    def __init__(self) -> None:
        self._memo = Memo()

    def plan(self, desired: Desired) -> KernelState:
        """Each namespace is the union of the hops' fragments for it, with its services."""
        parts: list[Namespace] = []
        services: dict[str, Services] = {}
        if desired.swarm is not None:
            swarm = _SwarmRound(self._memo, desired.swarm, desired.local)
            parts += swarm.parts()
            services = swarm.services
        parts += self._local(desired)
        spaces: dict[str, list[Namespace]] = {HOST: [], **grouped(parts)}
        state = KernelState(
            {name: self._whole(name, some, services.get(name)) for name, some in spaces.items()}
        )
        self._memo.turn()
        return state

    def _whole(self, name: str, parts: Sequence[Namespace], services: Services | None) -> Namespace:
        one = len(parts) == 1
        namespace = (
            parts[0]
            if one
            else self._memo.keep(("union", name), tuple(parts), lambda: union(name, parts))
        )
        if services is None:
            return namespace
        return self._memo.keep(
            ("serving", name), (namespace, services), lambda: serving(namespace, services)
        )

    def _alone(self, place: LocalSandbox) -> LocalSandbox:
        """The container on a node that is in no swarm, or not any more."""
        if not place.overlays:
            return place
        return self._memo.keep(("alone", place.id), (place,), lambda: _without_overlays(place))

    def _local(self, desired: Desired) -> Iterator[Namespace]:
        """The node's own networks."""
        local, swarm, keep = desired.local, desired.swarm, self._memo.keep
        networks, bridges = {n.id: n for n in local.networks}, bridge.shown(local)
        for network in bridges:
            yield keep(("bridge", network.id), (network,), partial(bridge.device, network))
        is_alone = swarm is None and desired.knows_swarm
        for place in map(self._alone, local.sandboxes) if is_alone else local.sandboxes:
            known = (networks.get(endpoint.network) for endpoint in place.endpoints)
            made = partial(_connected, place, networks)
            yield from keep(("local", place.id), (place, *known), made)
        if not bridges:
            return
        facts = None if swarm is None else swarm.facts
        own = HostPorts.of(() if swarm is None else own_ports(swarm.overlays, swarm.facts))
        port = None if swarm is None else swarm.overlays.data_path_port
        yield keep(
            ("bridges",),
            (*bridges, *local.sandboxes, facts, port),
            lambda: bridge.rules(bridges, local.sandboxes, own),
        )
        if facts is not None:
            way = partial(bridge.into_mesh, bridges, facts.data_path_address)
            yield keep(("bridges-mesh",), (*bridges, facts), way)


def _without_overlays(place: LocalSandbox) -> LocalSandbox:
    return msgspec.structs.replace(place, overlays=(), gateway=None)


def _connected(place: LocalSandbox, networks: bridge.Networks) -> Parts:
    return tuple(bridge.connect(place, networks))


class _SwarmRound:
    """One plan of the swarm's part."""

    def __init__(self, memo: Memo, part: SwarmPart, local: LocalPart) -> None:
        overlays, facts = part.overlays, part.facts
        self._memo, self._overlays, self._facts = memo, overlays, facts
        networks = overlays.networks
        self._is_marked = encryption.is_marked(overlays, facts, part.policies_in_force)
        self._local = local
        self._bridges = bridge.shown(local)
        own = own_ports(overlays, facts)
        self._taken = HostPorts.of((*own, *local_ports(local)))
        residents = without_own_ports(part.residents, self._taken)
        residents += without_own_ports(list(self._plain()), HostPorts.of(own))
        self._residents = sorted(residents, key=lambda r: r.sandbox.id)
        self._outside = [r for r in self._residents if sandbox.needs_gateway(r.workload, networks)]
        self._attached: dict[NetworkId, list[Workload]] = {}
        for _, workload in self._residents:
            for attachment in workload.attachments:
                self._attached.setdefault(attachment.network, []).append(workload)
        shown = sorted(
            id for id, view in networks.items() if id in self._attached or view.definition.ingress
        )
        self._views = {id: networks[id] for id in shown}
        self._tables = {id: self._table(view) for id, view in self._views.items()}
        self._outlooks = {id: self._outlook(view) for id, view in self._views.items()}
        self.services: dict[str, Services] = {}
        """Services by namespace; complete when `parts` has ended."""

    def _plain(self) -> Iterator[Resident]:
        """The node's own containers on overlays."""
        networks = {network.id: network for network in self._local.networks}
        for place in self._local.sandboxes:
            known = (networks.get(endpoint.network) for endpoint in place.endpoints)
            made = partial(attached.resident_of, place, networks)
            resident = self._memo.keep(("attached", place.id), (place, *known), made)
            if resident is not None:
                yield resident

    def parts(self) -> Iterator[Namespace]:
        yield from self._hosts()
        for id, view in self._views.items():
            yield from self._network(id, view)
        reachable = {s.id for s, _ in self._outside}
        for place, workload in self._residents:
            yield from self._container(place, workload, place.id in reachable)

    def _keep(
        self,
        key: tuple[str, ...],
        inputs: Iterable[object],
        make: Callable[[], Iterable[Namespace]],
    ) -> Parts:
        """The fragments of one hop, one for each namespace. They depend on the inputs and on the
        node's facts."""

        def made() -> Parts:
            return tuple(union(name, parts) for name, parts in grouped(make()).items())

        return self._memo.keep(key, (self._facts, *inputs), made)

    # --- the host

    def _hosts(self) -> Iterator[Namespace]:
        facts, port = self._facts, self._overlays.data_path_port
        outside = [each for pair in self._outside for each in pair]
        yield from self._keep(("gateway",), outside, lambda: gateway.bridge(facts, self._outside))
        known = [view.definition for view in self._overlays.networks.values()]
        keys = (port, self._overlays.keys, *known)
        marked = self._is_marked
        yield from self._keep(
            ("encryption", str(marked)),
            keys,
            lambda: encryption.isolation(self._overlays, facts, marked),
        )
        definitions = [view.definition for view in self._views.values()]
        places = [self._places(view) for view in self._views.values()]
        hosts = self._memo.keep(("hosts",), (facts, *places), lambda: underlay.hosts(places, facts))
        inputs = (port, hosts, *definitions, *self._bridges)
        yield from self._keep(
            ("underlay",),
            inputs,
            lambda: [
                underlay.datagrams(
                    definitions, hosts, facts, port, [n.device for n in self._bridges]
                )
            ],
        )

    # --- a network

    def _places(self, view: NetworkView) -> underlay.Places:
        def after(before: underlay.Places | None) -> underlay.Places:
            return underlay.places(view, before)

        return self._memo.follow(("places", view.definition.id), (view.endpoints,), after)

    def _table(self, view: NetworkView) -> ServiceTable:
        def after(before: ServiceTable | None) -> ServiceTable:
            return service_table(view, before or EMPTY)

        return self._memo.follow(("services", view.definition.id), (view,), after)

    def _outlook(self, view: NetworkView) -> Outlook:
        definition = view.definition
        if not definition.ingress:
            return self._memo.keep(
                ("outlook", definition.id), (definition,), lambda: Outlook(definition, None)
            )
        ends = reply.leg_endpoints(view)
        return self._memo.keep(
            ("outlook", definition.id),
            (definition, *ends),
            lambda: Outlook(definition, reply.legs(ends)),
        )

    def _network(self, id: NetworkId, view: NetworkView) -> Iterator[Namespace]:
        facts, keys, port = self._facts, self._overlays.keys, self._overlays.data_path_port
        definition, own, table = (
            view.definition,
            view.load_balancer(self._facts.node),
            self._tables[id],
        )
        wire = (definition, own, keys, port)
        yield from self._keep(
            ("wire", id), wire, lambda: overlay.wire(definition, own, facts, keys, port)
        )
        if encryption.socket_namespace(definition, facts, keys) is not None:
            peers = self._memo.follow(
                ("peers", id),
                (facts, definition, view.endpoints),
                lambda before: overlay.peers(view, facts, before),
            )
            yield peers.part
        if self._is_marked:
            yield from self._keep(
                ("marks", id), (definition,), lambda: encryption.marked_frames(definition)
            )
        here = self._attached.get(id, ())
        yield from self._keep(
            ("guard", id),
            (definition, *here),
            lambda: [source_guard.guard(definition, here), late_syn.silence(definition, here)],
        )
        if own is None or overlay.segment_of(definition, own.address.ip) is None:
            return
        addresses = loadbalancer.addresses(table.virtual)
        inputs = (definition, own, *addresses)
        yield from self._keep(
            ("balancer", id),
            inputs,
            lambda: loadbalancer.balancer(definition, own, addresses, facts),
        )
        if not definition.ingress:
            self.services[balancer_namespace(id)] = table.virtual
            return
        at_one = any(isinstance(it, Published) and it.address for it in table.published)
        yield from self._keep(
            ("mesh", id, str(at_one)),
            (definition, own),
            lambda: ingress.mesh(definition, own, facts, at_one),
        )
        taken = self._taken
        self.services[HOST] = self._memo.keep(
            ("published",),
            (table.published, facts, port, *self._local.sandboxes),
            lambda: published(table.published, taken),
        )
        outlet = (facts, INGRESS_SANDBOX, INGRESS_SANDBOX, "eth1", facts.ingress_gateway)
        yield from self._keep(("outlet", id), (), lambda: gateway.port(*outlet))

    # --- a container

    def _container(
        self, place: Sandbox, workload: Workload, has_gateway: bool
    ) -> Iterator[Namespace]:
        outlooks, facts = self._outlooks, self._facts
        known = [outlooks[a.network] for a in workload.attachments if a.network in outlooks]
        inputs = (place, workload, has_gateway, *known)
        yield from self._keep(
            ("container", place.id),
            inputs,
            lambda: sandbox.connect(place, workload, outlooks, facts, has_gateway),
        )
        called = [self._tables[o.definition.id].virtual for o in known if not o.definition.ingress]
        if called:
            self.services[place.key] = self._together(called)

    def _together(self, called: Sequence[Mapping[Destination, Service]]) -> Services:
        """The services of all the networks. Containers on the same networks share one object."""
        if len(called) == 1:
            return called[0]
        key = ("called", *map(id, called))
        return self._memo.keep(
            key, tuple(called), lambda: {k: s for part in called for k, s in part.items()}
        )
