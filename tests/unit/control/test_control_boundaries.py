"""The first and the last of what is handed out, and the moment at which something counts no more:
pools, ranges and windows, to the number."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.control_room import ControlRoom
from weft.control.allocator import subnets, vnis
from weft.control.allocator.addresses import Book
from weft.control.allocator.ports import FIRST_DYNAMIC, LAST_DYNAMIC, Ports
from weft.control.orchestrator.draft import Draft
from weft.control.orchestrator.nodes import ORPHANED_AFTER, orphan_lost
from weft.control.orchestrator.restart import may_restart, promote
from weft.errors import Exhausted
from weft.model.addresses import FIRST_VNI, LAST_VNI
from weft.model.ids import NetworkId, NodeId, ServiceId, TaskId
from weft.model.meta import SECOND, Meta
from weft.model.network import Network, NetworkSpec, Pool, Segment
from weft.model.node import NodeState
from weft.model.service import (
    ContainerSpec,
    Endpoint,
    EndpointSpec,
    NetworkAttachmentSpec,
    PublishedPort,
    RestartPolicy,
    Service,
    ServiceSpec,
    TaskSpec,
)
from weft.model.state import ClusterState
from weft.model.task import Task, TaskState, TaskStatus

# --- numbers that are handed out


@pytest.mark.parametrize(
    ("cursor", "taken", "chosen"),
    [
        (FIRST_VNI, (), FIRST_VNI), (FIRST_VNI - 1, (), FIRST_VNI), (LAST_VNI, (), LAST_VNI), (LAST_VNI + 1, (), FIRST_VNI),
        (LAST_VNI - 1, (LAST_VNI - 1,), LAST_VNI), (LAST_VNI, (LAST_VNI, FIRST_VNI), FIRST_VNI + 1), (0, (FIRST_VNI,), FIRST_VNI + 1),
    ],
)  # fmt: skip
def test_vnis_from_the_first_to_the_last(cursor: int, taken: tuple[int, ...], chosen: int) -> None:
    assert vnis.choose(cursor, taken) == chosen


def test_the_vni_before_the_cursor_is_the_last_that_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    last = FIRST_VNI + 3
    monkeypatch.setattr(vnis, "LAST_VNI", last)
    every = set(range(FIRST_VNI, last + 1))
    for start in every:
        for free in every:
            assert vnis.choose(start, every - {free}) == free
        with pytest.raises(Exhausted, match=f"no VNI is left between {FIRST_VNI} and {last}"):
            vnis.choose(start, every)


def publisher(id: str, *published: int) -> Service:
    """One port, left open; it has been given these."""
    endpoint = EndpointSpec(ports=(PublishedPort(target=80),))
    spec = ServiceSpec(
        name=id, task=TaskSpec(container=ContainerSpec(image="app")), endpoint=endpoint
    )
    ports = tuple(PublishedPort(target=80, published=number) for number in published)
    return Service(id=ServiceId(id), spec=spec, endpoint=Endpoint(ports=ports))


@pytest.mark.parametrize("cursor", [0, FIRST_DYNAMIC, 31000, LAST_DYNAMIC, LAST_DYNAMIC + 1, 65535])
@pytest.mark.parametrize("free", [FIRST_DYNAMIC, 30999, 31000, LAST_DYNAMIC])
def test_the_only_port_that_is_left_is_found_and_the_one_after_it_is_not(
    cursor: int, free: int
) -> None:
    others = publisher(
        "others", *(number for number in range(FIRST_DYNAMIC, LAST_DYNAMIC + 1) if number != free)
    )
    ports = Ports([others], cursor)
    [given] = ports.take(publisher("first"))
    assert given.published == free
    with pytest.raises(Exhausted, match="no tcp port is left between 30000 and 32767"):
        ports.take(publisher("second"))


def test_a_port_is_kept_on_update_if_it_is_one_that_could_have_been_chosen() -> None:
    for number in (FIRST_DYNAMIC, LAST_DYNAMIC):
        assert [port.published for port in Ports([], 31000).take(publisher("web", number))] == [
            number
        ]
    for number in (FIRST_DYNAMIC - 1, LAST_DYNAMIC + 1):
        assert [port.published for port in Ports([], 31000).take(publisher("web", number))] == [
            31000
        ]


SUBNETS = st.builds(
    lambda length, host: IPv4Network((0x0A000000 + host, length), strict=False),
    st.integers(24, 32),
    st.integers(0, 511),
)


@given(st.integers(25, 30), st.lists(SUBNETS, max_size=6))
@example(26, [IPv4Network("10.0.0.0/32"), IPv4Network("10.0.0.127/32")])
def test_the_subnet_chosen_is_the_lowest_that_overlaps_nothing(
    size: int, taken: list[IPv4Network]
) -> None:
    """By looking at all of them."""
    pools = [IPv4Network("10.0.0.0/25"), IPv4Network("10.0.1.0/26")]
    every = [
        net for pool in pools if size >= pool.prefixlen for net in pool.subnets(new_prefix=size)
    ]
    free = [net for net in every if not any(net.overlaps(other) for other in taken)]
    if free:
        assert subnets.choose(pools, size, taken) == free[0]
    else:
        with pytest.raises(Exhausted):
            subnets.choose(pools, size, taken)


@pytest.mark.parametrize(
    ("subnet", "range", "usable"),
    [
        ("10.9.0.0/30", None, "2"), ("10.9.0.0/29", None, "2 3 4 5 6"), ("10.9.0.0/29", "10.9.0.0/30", "2 3"),
        ("10.9.0.0/29", "10.9.0.4/30", "4 5 6"), ("10.9.0.0/28", "10.9.0.4/30", "4 5 6 7"), ("10.9.0.0/28", "10.9.0.8/32", "8"),
    ],
)  # fmt: skip
def test_a_network_is_used_from_its_first_address_to_its_last_and_not_beyond(
    subnet: str, range: str | None, usable: str
) -> None:
    """Of 10.9.0.x, less the gateway x=1 and the node's own. The network's address and its broadcast
    address are nobody's."""
    room = ControlRoom(nodes=1)
    pool = Pool(
        IPv4Network(subnet),
        ip_range=IPv4Network(range) if range else None,
        gateway=IPv4Address("10.9.0.1"),
    )
    network = room.network(NetworkSpec(name="net", pools=(pool,)))
    task = TaskSpec(
        container=ContainerSpec(image="app"), networks=(NetworkAttachmentSpec(network),)
    )
    room.service(ServiceSpec(name="web", replicas=16, task=task, endpoint=EndpointSpec("dnsrr")))
    room.settle()
    held = [a.address.ip for task in room.state.tasks.values() for a in task.attachments]
    held += [
        a.address.ip
        for node in room.state.nodes.values()
        for a in node.attachments
        if a.network == network
    ]
    assert sorted(int(address) & 0xFF for address in held) == [int(x) for x in usable.split()]


@pytest.mark.parametrize("cursor", range(8))
@pytest.mark.parametrize("free", range(2, 7))
def test_the_only_address_that_is_left_is_found_wherever_the_search_begins(
    cursor: int, free: int
) -> None:
    """Also the one that was given last."""
    subnet = IPv4Network("10.9.0.0/29")
    reserved = {str(number): subnet[number] for number in range(2, 7) if number != free}
    id = NetworkId("net")
    network = Network(
        id=id,
        spec=NetworkSpec(name="net", pools=(Pool(subnet, reserved=reserved),)),
        segments=(Segment(subnet, subnet[1], FIRST_VNI),),
        cursor=int(subnet[cursor]),
    )
    book = Book(ClusterState([network], 1), {id: network})
    assert book.take([id])[id].ip == subnet[free]
    assert book.cursors == {id: int(subnet[free])}
    with pytest.raises(Exhausted, match="no available addresses on network net"):
        book.take([id])


@pytest.mark.parametrize(("cursor", "given"), [(3, 4), (4, 5), (5, 6), (6, 7), (7, 4), (8, 4)])
def test_the_search_begins_behind_the_address_that_was_given_last(cursor: int, given: int) -> None:
    subnet, id = IPv4Network("10.9.0.0/28"), NetworkId("net")
    network = Network(
        id=id,
        spec=NetworkSpec(name="net", pools=(Pool(subnet, ip_range=IPv4Network("10.9.0.4/30")),)),
        segments=(Segment(subnet, subnet[1], FIRST_VNI),),
        cursor=int(subnet[cursor]),
    )
    assert Book(ClusterState([network], 1), {id: network}).take([id])[id].ip == subnet[given]


def test_with_the_gateway_at_the_end_the_first_address_is_somebodys() -> None:
    subnet, id = IPv4Network("10.9.0.0/29"), NetworkId("net")
    segment = Segment(subnet, subnet[6], FIRST_VNI)
    network = Network(
        id=id,
        spec=NetworkSpec(name="net", pools=(Pool(subnet, gateway=subnet[6]),)),
        segments=(segment,),
    )
    book = Book(ClusterState([network], 1), {id: network})
    assert [book.take([id])[id].ip for _ in range(5)] == list(subnet)[1:6]


# --- moments


NOW = 1_000_000 * SECOND


def drafted(*created: int, policy: RestartPolicy) -> tuple[Draft, list[Task]]:
    """A slot with tasks that were made so many seconds ago, all over."""
    room = ControlRoom()
    id = room.service(
        ServiceSpec(
            name="web",
            replicas=1,
            task=TaskSpec(container=ContainerSpec(image="a"), restart=policy),
        )
    )
    service = room.state.services[id]
    tasks = [
        Task(
            id=TaskId(f"t{number}"), service=id, service_name="web", spec=service.spec.task, spec_version=service.spec_version,
            slot=1, status=TaskStatus(TaskState.FAILED), meta=Meta(created_at=NOW - ago * SECOND),
        )
        for number, ago in enumerate(created)
    ]  # fmt: skip
    return Draft(room.state, id, NOW, lambda: TaskId("new")), tasks


@pytest.mark.parametrize(
    ("created", "most", "window", "may"),
    [
        ((90,), 1, 0, True), ((90, 60), 1, 0, False), ((90, 60), 2, 0, True), ((90, 60, 30), 2, 0, False),
        ((90, 60), 1, 60, True), ((90, 59), 1, 60, False), ((90, 60, 59), 1, 60, False), ((90, 61, 60), 1, 60, True),
        ((90, 60, 30), 2, 60, True), ((90, 59, 30), 2, 60, False), ((30,), 1, 60, True), ((90, 80, 70, 65), 1, 60, True),
    ],
)  # fmt: skip
def test_so_many_restarts_are_allowed_within_the_window(
    created: tuple[int, ...], most: int, window: int, may: bool
) -> None:
    """The first task of a slot is no restart; one made as long ago as the window is outside of
    it."""
    draft, tasks = drafted(
        *created, policy=RestartPolicy(max_attempts=most, window=window * SECOND, delay=0)
    )
    assert may_restart(draft, tasks, tasks[-1]) is may


@pytest.mark.parametrize(
    ("created", "may"),
    [
        ((30, 20, 10), False), ((33, 22, 11), False), ((46, 23, 12), True), ((20, 10), True),
    ],
)  # fmt: skip
def test_the_delays_between_restarts_are_not_part_of_the_window(
    created: tuple[int, ...], may: bool
) -> None:
    """A window of 3 s after delays of 10: two restarts that run for less than that are enough."""
    policy = RestartPolicy(max_attempts=2, window=3 * SECOND, delay=10 * SECOND)
    draft, tasks = drafted(*created, policy=policy)
    assert may_restart(draft, tasks, tasks[-1]) is may


@pytest.mark.parametrize(("left", "runs"), [(SECOND, False), (1, False), (0, True)])
@pytest.mark.parametrize(("grace", "timeout"), [(10, 60), (45, 60), (46, 61), (3600, 3615)])
def test_a_replacement_waits_for_its_predecessor_to_stop_and_not_a_moment_longer_than_the_timeout(
    grace: int, timeout: int, left: int, runs: bool
) -> None:
    """`grace`, `timeout`: seconds; `left`: nanoseconds of the timeout."""
    room = ControlRoom(2)
    container = ContainerSpec(image="a", stop_grace_period=grace * SECOND)
    id = room.service(ServiceSpec(name="web", replicas=1, task=TaskSpec(container=container)))
    room.settle()
    [old] = room.running(id)
    room.set_node(old.node or "", availability="drain")
    room.run("orchestrator")
    [new] = [task for task in room.state.tasks_of(id).values() if task.id != old.id]
    assert new.desired == TaskState.READY
    draft = Draft(
        room.state, id, new.meta.created_at + timeout * SECOND - left, lambda: TaskId("x")
    )
    promote(draft)
    assert (draft.tasks[new.id].desired == TaskState.RUNNING) is runs


@pytest.mark.parametrize(("left", "is_over"), [(1, False), (0, True)])
def test_tasks_of_a_node_that_has_been_down_for_a_day_are_orphaned(
    left: int, is_over: bool
) -> None:
    """`left`: nanoseconds of the day. The loop that asks to be woken then must find it over."""
    room = ControlRoom(1)
    id = room.service(
        ServiceSpec(name="web", replicas=1, task=TaskSpec(container=ContainerSpec(image="a")))
    )
    room.settle()
    [task] = room.running(id)
    room.set_node("node1", NodeState.DOWN)
    end = room.state.nodes[NodeId("node1")].status.since + ORPHANED_AFTER
    draft = Draft(room.state, id, end - left, lambda: TaskId("x"))
    orphan_lost(draft)
    assert (draft.tasks[task.id].state == TaskState.ORPHANED) is is_over
    assert draft.wake_at == (None if is_over else end)
