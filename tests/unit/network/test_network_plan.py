"""What a plan always is: the same for equal input, ours by name, unique on every wire, and text
that an interpreter understands."""

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.swarms import Swarm
from tests.unit.network.conftest import ENGINES, KEYS, Engine, Told, inputs, planned, swarms, told
from weft.model.assignment import NetworkDefinition
from weft.model.encryption import DataKey
from weft.model.ids import NetworkId
from weft.model.service import PublishedPort
from weft.model.task import TaskState
from weft.network.diff import diff
from weft.network.kernel_state import HOST, KernelState, Link, Namespace, Veth, Vxlan
from weft.network.operations import AddLink, SetSysctl
from weft.network.overlay import mtu_of
from weft.network.ownership import owns_link, owns_routing_table, owns_rule, owns_table
from weft.network.plan import plan
from weft.network.render.table import text
from weft.network.trace.nft import parse

few = settings(
    max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
K = TypeVar("K")
V = TypeVar("V")
LONGEST_NAME = 15
"""IFNAMSIZ less the closing zero."""


@few
@given(inputs(), st.randoms(use_true_random=False))
def test_order_of_the_input_does_not_matter(input: Told, random: Random) -> None:
    overlays, facts, residents = input

    def shuffled(table: Mapping[K, V]) -> dict[K, V]:
        items = list(table.items())
        random.shuffle(items)
        return dict(items)

    views = {
        id: msgspec.structs.replace(
            view, endpoints=shuffled(view.endpoints), services=shuffled(view.services)
        )
        for id, view in shuffled(overlays.networks).items()
    }
    other = msgspec.structs.replace(overlays, networks=views)
    mixed = list(residents)
    random.shuffle(mixed)
    assert plan(other, facts, mixed) == plan(overlays, facts, residents)


@few
@given(inputs())
def test_everything_in_the_hosts_namespace_is_ours(input: Told) -> None:
    host = planned(input)[HOST]
    assert all(owns_link(name) for name in host.links)
    assert all(owns_table(name) for _, name in host.tables)
    assert all(owns_rule(r.priority, r.mark, r.input_device) for r in host.rules)
    assert all(owns_routing_table(r.table) or owns_link(r.device) for r in host.routes)
    assert all(owns_link(neighbour.device) for neighbour in host.neighbours)
    assert all(owns_link(entry.device) for entry in host.forwarding)


@few
@given(inputs())
def test_names_fit_and_refer_to_what_is_there(input: Told) -> None:
    state = planned(input)
    for space in state.namespaces.values():
        assert all(
            name == link.name and len(name) <= LONGEST_NAME for name, link in space.links.items()
        )
        for link in space.links.values():
            assert link.master is None or link.master in space.links
            if isinstance(link.kind, Veth):
                there = far_end(state, link.kind)
                assert there.kind == Veth(space.name, link.name), "both ends name each other"
                assert there.mtu == link.mtu
            if isinstance(link.kind, Vxlan):
                assert link.kind.socket in state.namespaces
        devices = {
            *(neighbour.device for neighbour in space.neighbours),
            *(entry.device for entry in space.forwarding),
            *(route.device for route in space.routes),
        }
        assert devices <= space.links.keys()


@few
@given(swarms(), st.sampled_from(ENGINES))
def test_no_two_nodes_give_one_network_the_same_mac(swarm: Swarm, engine: Engine) -> None:
    """A frame's MAC says where it goes: on each overlay every MAC is behind one host only, and that
    is what the others believe."""
    states = {i: plan(*told(swarm, i, engine, KEYS)) for i in (1, 2, 3)}
    for network in swarm.definitions:
        name = f"1-{network[:10]}"
        owners: dict[str, int] = {}
        for i, state in states.items():
            for mac in macs_behind(state, name):
                assert owners.setdefault(mac, i) == i, f"{mac} is on node{owners[mac]} and node{i}"
        for i, state in states.items():
            for entry in state[name].forwarding if name in state.namespaces else ():
                owner = owners.get(entry.mac)
                if entry.vtep is None:
                    assert owner == i, f"{entry.mac} is not behind a port here"
                    continue
                assert owner != i, "nobody is sent away from where he is"
                assert owner is None or entry.vtep == swarm.facts(owner).data_path_address


def far_end(state: KernelState, kind: Veth) -> Link:
    assert kind.peer_namespace is not None
    assert kind.peer is not None
    return state[kind.peer_namespace].links[kind.peer]


def macs_behind(state: KernelState, name: str) -> list[str]:
    """Of the far ends of an overlay's ports, and its bridges'."""
    if name not in state.namespaces:
        return []
    links = state[name].links.values()
    ends = [far_end(state, link.kind).mac for link in links if isinstance(link.kind, Veth)]
    return [mac for mac in (*ends, *(link.mac for link in links)) if mac is not None]


@few
@given(inputs())
def test_no_address_twice_in_one_namespace(input: Told) -> None:
    for space in planned(input).namespaces.values():
        held = Counter(a.ip for link in space.links.values() for a in link.addresses)
        gateways = {
            a.ip for n, link in space.links.items() if n.startswith("br") for a in link.addresses
        }
        assert all(count == 1 or ip in gateways for ip, count in held.items())


def encrypted_and_published() -> Told:
    swarm = Swarm(2)
    networks = (
        swarm.network("plain", "10.10.0.0/24"),
        swarm.network("secret", "10.11.0.0/24", encrypted=True),
    )
    swarm.service("web", *networks, ports=[PublishedPort(target=80, published=8080)], on=[1, 2])
    return told(swarm, 1, "userspace", KEYS)


@few
@given(inputs())
@example(encrypted_and_published())
def test_no_link_of_ours_speaks_ipv6_from_the_moment_on_that_it_is_there(input: Told) -> None:
    """Overlays carry IPv4: what is sent with other addresses meets none of our rules. On the host
    only the links that have an address can speak at all, the others are ports of a bridge. In a
    container the value is a default, which a service may change."""
    state = planned(input)
    boxes = {resident.sandbox.key for resident in input[2]}
    off = {
        name
        for name, space in state.namespaces.items()
        if space.sysctls.get("net.ipv6.conf.default.disable_ipv6") == "1"
    }
    assert off == state.namespaces.keys() - {HOST}
    assert all(state[name].sysctls["net.ipv6.conf.all.disable_ipv6"] == "1" for name in off - boxes)
    speaking = {
        name for name, link in state[HOST].links.items() if link.addresses or link.master is None
    }
    assert {f"net.ipv6.conf.{name}.disable_ipv6" for name in speaking} <= state[HOST].sysctls.keys()
    assert {state[HOST].sysctls[f"net.ipv6.conf.{name}.disable_ipv6"] for name in speaking} <= {"1"}

    told = set()
    for operation in diff(KernelState({HOST: Namespace(name=HOST)}), state):
        if (
            isinstance(operation, SetSysctl)
            and operation.key == "net.ipv6.conf.default.disable_ipv6"
        ):
            told.add(operation.namespace)
        if isinstance(operation, AddLink):
            kind = operation.link.kind
            ends = {operation.namespace, *([kind.peer_namespace] if isinstance(kind, Veth) else [])}
            assert ends - {HOST} <= told, f"{operation} before IPv6 is off"


@few
@given(inputs())
def test_every_table_is_text_that_the_interpreter_knows(input: Told) -> None:
    for space in planned(input).namespaces.values():
        for table in space.tables.values():
            rules = parse(text(table))
            verdicts = [
                v.split()
                for m in rules.elements.values()
                for v in m.values()
                if v.startswith(("goto ", "jump "))
            ]
            assert {target for _, target in verdicts} <= rules.chains.keys()
            assert text(table).isascii()


@few
@given(inputs())
def test_tasks_on_their_way_out_keep_their_network_and_get_nothing_new(input: Told) -> None:
    overlays, _, residents = input
    state = planned(input)
    keys = {r.sandbox.key for r in residents}
    assert keys <= state.namespaces.keys()
    rules = "\n".join(text(table) for table in state[HOST].tables.values())
    for view in overlays.networks.values():
        if view.definition.ingress:
            for e in view.endpoints.values():
                assert e.serving or e.task is None or f" {e.address.ip} . " not in rules


def test_hosts_and_containers_are_one_element_each() -> None:
    """Of what looks at who sends: the rules are the same for any number of them."""
    small, large = Swarm(2), Swarm(9)
    for swarm in (small, large):
        swarm.service(
            "web", swarm.network("mynet", "10.10.10.0/24"), on=[1] * (len(swarm.nodes) - 1)
        )
    plans = [plan(*told(swarm, 1)) for swarm in (small, large)]
    for space, family, name, elements in (
        (HOST, "ip", "weft-underlay", ("hosts",)),
        ("1-mynet00000", "bridge", "weft", ("senders",)),
        (HOST, "ip", "weft", ("gateway-senders",)),
    ):
        few, many = (parse(text(p[space].tables[family, name])) for p in plans)
        assert few.chains == many.chains
        assert [len(many.elements[e]) - len(few.elements[e]) for e in elements] == [7]


def test_a_sandbox_whose_resident_is_gone_goes_away() -> None:
    swarm = Swarm(1)
    [task] = swarm.service("web", on=[1])
    overlays, facts, residents = told(swarm, 1)
    assert swarm.sandbox(task).key in plan(overlays, facts, residents).namespaces
    assert swarm.sandbox(task).key not in plan(overlays, facts, []).namespaces


def test_encrypted_networks_without_key_or_engine_do_not_leave_the_host() -> None:
    swarm = Swarm(2)
    net = swarm.network("secret", "10.40.0.0/24", encrypted=True)
    swarm.service("web", net, on=[1, 2])
    name = f"1-{net[:10]}"
    without: tuple[tuple[Engine, tuple[DataKey, ...]], ...] = (
        (None, KEYS),
        ("userspace", ()),
        ("kernel", ()),
    )
    for engine, keys in without:
        assert "vxlan0" not in plan(*told(swarm, 1, engine, keys))[name].links
    sockets: tuple[tuple[Engine, str], ...] = (("userspace", "esp_sbox"), ("kernel", HOST))
    for engine, socket in sockets:
        tunnel = plan(*told(swarm, 1, engine, KEYS))[name].links["vxlan0"].kind
        assert isinstance(tunnel, Vxlan)
        assert tunnel.socket == socket


def test_host_mode_prefers_the_task_that_is_meant_to_run() -> None:
    """Of two versions of a task on one host, while one replaces the other."""
    swarm = Swarm(1)
    port = PublishedPort(target=80, published=9090, mode="host")
    old, new = swarm.service("web", ports=[port], on=[1, 1])
    for leaving, staying in ((old, new), (new, old)):
        swarm.tasks[leaving] = msgspec.structs.replace(
            swarm.tasks[leaving], desired=TaskState.SHUTDOWN
        )
        swarm.tasks[staying] = msgspec.structs.replace(
            swarm.tasks[staying], desired=TaskState.RUNNING
        )
        table = plan(*told(swarm, 1))[HOST].tables["ip", "weft"]
        assert table.sets["gateway-ports"].elements == {
            ("tcp", 9090): (swarm.sandbox(staying).gateway.ip, 80)
        }


@pytest.mark.parametrize(
    ("ports", "ranges"),
    [
        ([], []), ([53], [(53, 53)]), (range(20000, 30000), [(20000, 29999)]), ([1, 2, 4, 65535], [(1, 2), (4, 4), (65535, 65535)]),
    ],
)  # fmt: skip
def test_neighbouring_udp_ports_are_one_rule(
    ports: Sequence[int], ranges: list[tuple[int, int]]
) -> None:
    swarm = Swarm(1)
    published = [PublishedPort(target=p, published=p, protocol="udp") for p in reversed(ports)]
    (task,) = swarm.service("web", ports=published, on=[1])
    space = plan(*told(swarm, 1))[swarm.sandbox(task).key]
    assert sorted(r.source_ports for r in space.rules if r.source_ports) == ranges


def test_host_mode_ports_of_a_task_that_is_to_stop_take_no_new_connections() -> None:
    swarm = Swarm(1)
    (task,) = swarm.service(
        "web", ports=[PublishedPort(target=80, published=9090, mode="host")], on=[1]
    )
    swarm.tasks[task] = msgspec.structs.replace(swarm.tasks[task], desired=TaskState.REMOVE)
    assert plan(*told(swarm, 1))[HOST].tables["ip", "weft"].sets["gateway-ports"].elements == {}


# --- to be read: all that a small node's kernel is told


@pytest.mark.parametrize(
    ("asked", "agreed", "own", "inside"),
    [
        (None, 0, 1500, 1450), (None, 1400, 1500, 1350), (None, 1500, 1400, 1350), (1300, 1400, 1500, 1250), (9000, 1400, 1500, 8950),
    ],
)  # fmt: skip
def test_a_networks_mtu_is_that_of_the_narrowest_host_unless_the_user_says_another(
    asked: int | None, agreed: int, own: int, inside: int
) -> None:
    definition = NetworkDefinition(
        id=NetworkId("n"), name="n", segments=(), mtu=asked, underlay_mtu=agreed
    )
    facts = msgspec.structs.replace(Swarm(1).facts(1), underlay_mtu=own)
    assert mtu_of(definition, facts) == inside


def test_a_node_with_one_container_of_one_plain_network() -> None:
    swarm = Swarm(2)
    net = swarm.network("mynet", "10.10.10.0/24")
    [_, mine] = swarm.service("web", net, on=[2, 1], virtual=False)
    box = swarm.sandbox(mine).key
    operations = diff(plan(*told(Swarm(2), 1)), plan(*told(swarm, 1)))
    lines = [
        str(o).replace(box, "BOX").replace(box[:10], "BOX")
        for o in operations
        if not str(o).endswith("END")
    ]
    assert [line for line in lines if "sysctl" not in line] == [
        "ip netns add 1-mynet00000",
        "ip netns add lb_mynet0000",
        "ip netns add BOX",
        "ip -n 1-mynet00000 link add br0 mtu 1450 address 02:44:0a:0a:0a:02 type bridge",
        (
            "ip link add vxlan0 mtu 1450 netns 1-mynet00000 type vxlan id 4097 local 10.59.72.11"
            " dstport 4789 nolearning proxy l2miss l3miss"
        ),
        (
            "ip link add wgw-BOX mtu 1500 type veth peer name eth1 netns BOX mtu 1500 address"
            " 02:42:ac:12:00:03"
        ),
        (
            "ip -n 1-mynet00000 link add veth0 mtu 1450 type veth peer name eth0 netns lb_mynet0000"
            " mtu 1450 address 02:42:0a:0a:0a:02"
        ),
        (
            "ip -n 1-mynet00000 link add veth1 mtu 1450 type veth peer name eth0 netns BOX mtu 1450"
            " address 02:42:0a:0a:0a:05"
        ),
        "ip link set wgw-BOX master docker_gwbridge",
        "ip link set wgw-BOX type bridge_slave isolated on learning off flood off locked on hairpin off",
        "ip -n 1-mynet00000 link set vxlan0 master br0",
        (
            "ip -n 1-mynet00000 link set vxlan0 type bridge_slave isolated off learning off flood"
            " on locked off hairpin off"
        ),
        "ip -n 1-mynet00000 link set veth0 master br0",
        (
            "ip -n 1-mynet00000 link set veth0 type bridge_slave isolated off learning off flood"
            " off locked on hairpin off"
        ),
        "ip -n 1-mynet00000 link set veth1 master br0",
        (
            "ip -n 1-mynet00000 link set veth1 type bridge_slave isolated off learning off flood"
            " off locked on hairpin off"
        ),
        "ip -n 1-mynet00000 address add 10.10.10.1/24 dev br0",
        "ip -n lb_mynet0000 address add 10.10.10.2/24 dev eth0",
        "ip -n BOX address add 10.10.10.5/24 dev eth0",
        "ip -n BOX address add 172.18.0.3/16 dev eth1",
        "ip link set wgw-BOX up",
        "ip -n 1-mynet00000 link set br0 up",
        "ip -n 1-mynet00000 link set vxlan0 up",
        "ip -n 1-mynet00000 link set veth0 up",
        "ip -n 1-mynet00000 link set veth1 up",
        "ip -n lb_mynet0000 link set eth0 up",
        "ip -n BOX link set eth0 up",
        "ip -n BOX link set eth1 up",
        (
            "ip neighbour replace 172.18.0.3 lladdr 02:42:ac:12:00:03 dev docker_gwbridge nud"
            " permanent"
        ),
        "ip neighbour replace 172.18.0.3 lladdr 02:42:ac:12:00:03 dev wgw-BOX nud permanent",
        "bridge fdb replace 02:42:ac:12:00:03 dev wgw-BOX master static",
        (
            "ip -n 1-mynet00000 neighbour replace 10.10.10.3 lladdr 02:42:0a:0a:0a:03 dev vxlan0"
            " nud permanent"
        ),
        (
            "ip -n 1-mynet00000 neighbour replace 10.10.10.4 lladdr 02:42:0a:0a:0a:04 dev vxlan0"
            " nud permanent"
        ),
        "bridge -n 1-mynet00000 fdb replace 02:42:0a:0a:0a:02 dev veth0 master static",
        "bridge -n 1-mynet00000 fdb replace 02:42:0a:0a:0a:05 dev veth1 master static",
        (
            "bridge -n 1-mynet00000 fdb replace 02:42:0a:0a:0a:03 dev vxlan0 dst 10.59.72.12 self"
            " permanent"
        ),
        (
            "bridge -n 1-mynet00000 fdb replace 02:42:0a:0a:0a:04 dev vxlan0 dst 10.59.72.12 self"
            " permanent"
        ),
        "ip route replace 172.18.0.3/32 dev wgw-BOX table 5918",
        "ip -n BOX route replace default via 172.18.0.1 dev eth1",
    ]
