"""Addresses that a user chose for a service and its tasks: what is refused and in which words, that
they stay the service's, and that they follow updates, lost nodes and removals."""

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from tests.support.control_room import LOOPS, ControlRoom
from weft.control.requests import services
from weft.control.requests.networks import removal
from weft.errors import FailedPrecondition, InvalidArgument
from weft.model import codec
from weft.model.ids import NetworkId, ServiceId
from weft.model.meta import SECOND
from weft.model.network import NetworkSpec, Pool
from weft.model.node import NodeState
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    NetworkAttachmentSpec,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from weft.model.state import ClusterState
from weft.model.task import Task, TaskState

VIRTUAL = "weft.address.net"
TASKS = "weft.task-addresses.net"


class Room(ControlRoom):
    """A control room with a network `net`, 10.9.0.0/26, whose requests are checked."""

    def __init__(self, nodes: int = 2, **pool: Any) -> None:
        super().__init__(nodes)
        spec = Pool(IPv4Network("10.9.0.0/26"), **pool)
        self.net = self.network(NetworkSpec(name="net", pools=(spec,)))
        self.settle()

    def spec(self, labels: dict[str, str], name: str = "web", **more: Any) -> ServiceSpec:
        task = TaskSpec(
            container=ContainerSpec(image=more.pop("image", "app")),
            networks=(NetworkAttachmentSpec(more.pop("network", self.net)),),
            host_network=more.pop("host_network", False),
        )
        return ServiceSpec(name=name, labels=labels, task=task, **more)

    def create(self, labels: dict[str, str], name: str = "web", **more: Any) -> ServiceId:
        id, spec = ServiceId(self.new_id("svc")), self.spec(labels, name, **more)
        self.commit(services.creation(self.state, id, spec, self.now))
        return id

    def change(self, id: ServiceId, labels: dict[str, str], **more: Any) -> None:
        self.update(id, self.spec(labels, self.state.services[id].name, **more))

    def roll_back(self, id: ServiceId) -> None:
        version = self.state.services[id].meta.version
        self.commit(services.rollback(self.state, id, version, self.now))

    def virtual(self, id: ServiceId) -> list[str]:
        return [str(a.address) for a in self.state.services[id].endpoint.addresses]

    def addresses(self, id: ServiceId) -> dict[int, str]:
        """Those of running tasks, by slot."""
        return {task.slot: str(task.attachments[0].address) for task in self.running(id)}

    def waiting(self, id: ServiceId) -> list[Task]:
        return [t for t in self.state.tasks_of(id).values() if t.state == TaskState.NEW]


def test_a_service_and_its_tasks_get_the_addresses_of_its_labels() -> None:
    room = Room()
    web = room.create({VIRTUAL: "10.9.0.50", TASKS: "10.9.0.61, 10.9.0.60"}, replicas=2)
    room.settle()
    assert room.virtual(web) == ["10.9.0.50/26"]
    assert room.addresses(web) == {1: "10.9.0.61/26", 2: "10.9.0.60/26"}


def test_nobody_else_is_given_an_address_that_is_kept_although_nothing_has_it_yet() -> None:
    room = Room()
    room.create({VIRTUAL: "10.9.0.5", TASKS: "10.9.0.6,10.9.0.7"}, replicas=0)
    other = room.create({}, "other", replicas=70)
    room.settle()
    given = {a.split("/")[0] for a in room.addresses(other).values()}
    assert {"10.9.0.4", "10.9.0.8", "10.9.0.62"} <= given
    assert given.isdisjoint({"10.9.0.5", "10.9.0.6", "10.9.0.7"})
    assert any("no available addresses" in task.status.err for task in room.waiting(other))


BOTH = {VIRTUAL: "10.9.0.50", TASKS: "10.9.0.60,10.9.0.61"}
REPLICATED: dict[str, Any] = {"replicas": 2}


@pytest.mark.parametrize(
    ("labels", "more", "cause"),
    [
        ({VIRTUAL: "10.9.0"}, {}, f"{VIRTUAL}=10.9.0: must be an IPv4 address such as 10.0.1.50"),
        ({VIRTUAL: "10.9.0.5, 10.9.0.6"}, {}, "must be an IPv4 address"),
        ({VIRTUAL: ""}, {}, "must be an IPv4 address"),
        ({VIRTUAL: "fd00::5"}, {}, f"{VIRTUAL}=fd00::5: is an IPv6 address"),
        ({TASKS: "10.9.0.60,,10.9.0.61"}, {}, "must be a list with commas"),
        ({TASKS: "10.9.0.60,fd00::5"}, {}, f"{TASKS}=fd00::5: is an IPv6 address"),
        ({TASKS: "10.9.0.30,10.9.0.30"}, {}, "names 10.9.0.30 twice"),
        ({TASKS: ",".join(["10.9.0.60"] * 1001)}, {}, "has more than 1000 addresses"),
        ({VIRTUAL: "10.9.1.5"}, {}, "10.9.1.5 is outside of the network's subnet 10.9.0.0/26"),
        ({VIRTUAL: "10.9.0.0"}, {}, "10.9.0.0 is the network or broadcast address of subnet"),
        ({VIRTUAL: "10.9.0.63"}, {}, "10.9.0.63 is the network or broadcast address of subnet"),
        ({VIRTUAL: "10.9.0.1"}, {}, "10.9.0.1 is the network's gateway"),
        ({TASKS: "10.9.0.30,10.9.0.40"}, {}, "10.9.0.40 is reserved as router"),
        ({VIRTUAL: "10.9.0.30", TASKS: "10.9.0.30"}, {}, "is the service's virtual address on net"),
        ({"weft.address.lan": "10.9.0.5"}, {}, "the service is not on a network lan, only on net"),
        ({"weft.address.": "10.9.0.5"}, {}, "weft.address. is not a label that Weft knows"),
        ({"weft.address": "10.9.0.5"}, {}, "weft.address.NETWORK, weft.task-addresses.NETWORK"),
        ({VIRTUAL: "10.9.0.5"}, {"host_network": True}, "a service on the network host has no"),
        ({TASKS: "10.9.0.5"}, {"host_network": True}, "a service on the network host has no"),
        (
            {VIRTUAL: "10.9.0.5"},
            {"endpoint": EndpointSpec("dnsrr")},
            "a service of endpoint mode dnsrr has no virtual address: use endpoint mode vip",
        ),
        ({TASKS: "10.9.0.5"}, {"replicas": None}, "the tasks of a service of mode global cannot"),
        ({TASKS: "10.9.0.5"}, {"replicas": 2}, "1 addresses are not enough for 2 replicas"),
        (
            {TASKS: "10.9.0.5"},
            {"update": UpdateConfig(order="start-first")},
            "the update order start-first needs two addresses for a slot at a time",
        ),
        (
            {TASKS: "10.9.0.5"},
            {"rollback": UpdateConfig(order="start-first")},
            "the rollback order start-first needs two addresses",
        ),
        ({VIRTUAL: "10.9.0.50"}, {}, "service first has 10.9.0.50 on network net"),
        ({VIRTUAL: "10.9.0.61"}, {}, "task first.2 has 10.9.0.61 on network net"),
        ({TASKS: "10.9.0.62"}, {}, "service first has 10.9.0.62 on network net"),
    ],
)
def test_what_a_service_cannot_have_is_refused_when_it_is_created_or_updated(
    labels: dict[str, str], more: dict[str, Any], cause: str
) -> None:
    room = Room(reserved={"router": IPv4Address("10.9.0.40")})
    kept = f"{BOTH[TASKS]},10.9.0.62"
    room.create({VIRTUAL: BOTH[VIRTUAL], TASKS: kept}, "first", replicas=2)
    plain = room.create(
        {}, "plain", **({"replicas": None} if more.get("replicas", 1) is None else {})
    )
    room.settle()
    before = list(room.state.objects())
    for ask in (lambda: room.create(labels, **more), lambda: room.change(plain, labels, **more)):
        with pytest.raises(InvalidArgument) as refused:
            ask()
        assert cause in str(refused.value)
    assert list(room.state.objects()) == before


def test_the_address_of_a_load_balancer_is_refused() -> None:
    room = Room(nodes=1)
    room.create({}, "other")
    room.settle()
    leg = next(a for n in room.state.nodes.values() for a in n.attachments if a.network == room.net)
    with pytest.raises(InvalidArgument, match=f"load balancer of node node1 has {leg.address.ip}"):
        room.create({VIRTUAL: str(leg.address.ip)})


def test_a_name_within_a_stack_means_the_network_of_the_stack() -> None:
    room = Room()
    own = room.network(NetworkSpec(name="shop_net", pools=(Pool(IPv4Network("10.8.0.0/24")),)))
    room.settle()
    labels = {"com.docker.stack.namespace": "shop", VIRTUAL: "10.8.0.50"}
    web = room.create(labels, "shop_web", network=own)
    room.settle()
    assert room.virtual(web) == ["10.8.0.50/24"]
    full = {"com.docker.stack.namespace": "shop", "weft.address.shop_net": "10.8.0.51"}
    room.change(web, full, network=own)
    room.settle()
    assert room.virtual(web) == ["10.8.0.51/24"]


def test_an_address_outside_the_range_of_automatic_choice_can_be_had() -> None:
    room = Room(ip_range=IPv4Network("10.9.0.32/27"))
    web = room.create({VIRTUAL: "10.9.0.5"})
    room.settle()
    assert room.virtual(web) == ["10.9.0.5/26"]


def test_a_restart_and_a_rolling_update_wait_for_the_address_and_keep_it() -> None:
    room = Room()
    web = room.create(BOTH, replicas=2)
    room.settle()
    first = room.running(web)[0]
    room.report(first, TaskState.FAILED)
    room.settle()
    assert room.addresses(web) == {1: "10.9.0.60/26", 2: "10.9.0.61/26"}
    room.change(web, BOTH, replicas=2, image="newer")
    room.run("orchestrator")
    room.run("allocator")
    (new,) = room.waiting(web)
    old = room.running(web)
    assert new.status.err.startswith("waits for address 10.9.0.6")
    assert "which task web." in new.status.err
    assert len(old) == 1
    room.settle()
    assert room.addresses(web) == {1: "10.9.0.60/26", 2: "10.9.0.61/26"}
    assert {t.spec.container.image for t in room.running(web)} == {"newer"}
    assert room.virtual(web) == ["10.9.0.50/26"]


def test_a_task_whose_node_is_lost_gives_its_address_to_its_replacement() -> None:
    room = Room()
    web = room.create(BOTH, replicas=2)
    room.settle()
    lost = room.running(web)[0]
    assert lost.node is not None
    room.set_node(lost.node, NodeState.DOWN)
    room.settle()
    assert room.addresses(web) == {1: "10.9.0.60/26", 2: "10.9.0.61/26"}
    assert {t.node for t in room.running(web)} == {*room.state.nodes} - {lost.node}
    assert room.state.tasks[lost.id].attachments == ()
    room.set_node(lost.node, NodeState.READY)
    room.settle()
    assert room.state.tasks[lost.id].state == TaskState.SHUTDOWN


def test_a_task_on_a_node_in_reach_is_never_robbed() -> None:
    room = Room()
    web = room.create(BOTH, replicas=2)
    room.settle()
    drained = room.running(web)[0]
    assert drained.node is not None
    room.set_node(drained.node, availability="drain")
    for loop in LOOPS:
        room.run(loop)
    assert room.state.tasks[drained.id].attachments
    assert "still has" in room.waiting(web)[0].status.err
    room.settle()
    assert room.addresses(web) == {1: "10.9.0.60/26", 2: "10.9.0.61/26"}


def test_a_service_that_is_removed_and_created_again_waits_for_its_addresses() -> None:
    room = Room()
    room.remove(room.state.services[room.create(BOTH, replicas=2)])
    web = room.create(BOTH, replicas=2)
    room.settle()
    room.remove(room.state.services[web])
    again = room.create({VIRTUAL: "10.9.0.60", TASKS: "10.9.0.61"})
    room.run("allocator")
    assert "which task web.1" in room.state.services[again].error
    room.settle()
    assert room.virtual(again) == ["10.9.0.60/26"]
    assert room.addresses(again) == {1: "10.9.0.61/26"}


def test_the_label_of_a_service_that_exists_may_change_and_go() -> None:
    """Tasks are replaced if their own address changes, and only these."""
    room = Room()
    web = room.create({}, replicas=2)
    room.settle()
    tasks = [t.id for t in room.running(web)]
    room.change(web, {VIRTUAL: "10.9.0.50"}, replicas=2)
    room.settle()
    assert room.virtual(web) == ["10.9.0.50/26"]
    assert [t.id for t in room.running(web)] == tasks
    room.change(web, BOTH, replicas=2)
    room.settle()
    assert room.addresses(web) == {1: "10.9.0.60/26", 2: "10.9.0.61/26"}
    first = room.running(web)[0].id
    room.change(web, {VIRTUAL: "10.9.0.51", TASKS: "10.9.0.60,10.9.0.55,10.9.0.56"}, replicas=2)
    room.settle()
    assert room.virtual(web) == ["10.9.0.51/26"]
    assert room.addresses(web) == {1: "10.9.0.60/26", 2: "10.9.0.55/26"}
    assert room.running(web)[0].id == first
    other = room.create({TASKS: "10.9.0.61"}, "other")
    room.change(web, {}, replicas=2)
    room.settle()
    assert room.addresses(web) == {1: "10.9.0.60/26", 2: "10.9.0.55/26"}
    assert room.virtual(web) == ["10.9.0.51/26"]
    assert room.addresses(other) == {1: "10.9.0.61/26"}


def test_slots_do_not_swap_addresses_in_one_update() -> None:
    room = Room()
    web = room.create(BOTH, replicas=2)
    room.settle()
    for labels in ({TASKS: "10.9.0.61,10.9.0.60"}, {TASKS: "10.9.0.61"}):
        with pytest.raises(InvalidArgument, match="task web.2 has 10.9.0.61 on network net"):
            room.change(web, labels, replicas=len(labels[TASKS].split(",")))
    with pytest.raises(InvalidArgument, match="the service itself, as its virtual address, has"):
        room.change(web, {TASKS: "10.9.0.50,10.9.0.61"}, replicas=2)
    with pytest.raises(InvalidArgument, match="task web.1 has 10.9.0.60 on network net"):
        room.change(web, {VIRTUAL: "10.9.0.60"}, replicas=2)


def test_a_service_grows_only_as_far_as_it_has_addresses() -> None:
    room = Room()
    web = room.create({TASKS: "10.9.0.60,10.9.0.61,10.9.0.62"}, replicas=3)
    room.settle()
    labels = dict(room.state.services[web].spec.labels)
    with pytest.raises(InvalidArgument, match="3 addresses are not enough for 4 replicas"):
        room.change(web, labels, replicas=4)
    room.change(web, labels, replicas=1)
    room.settle()
    (left,) = room.addresses(web).items()
    assert left in ((1, "10.9.0.60/26"), (2, "10.9.0.61/26"), (3, "10.9.0.62/26"))


def test_a_slot_without_an_address_is_given_up_for_one_that_has_one() -> None:
    room = Room(nodes=1)
    web = room.create({}, replicas=3)
    room.settle()
    room.report(next(t for t in room.running(web) if t.slot == 1), TaskState.FAILED)
    room.change(web, {}, replicas=2)
    room.settle()
    assert [t.slot for t in room.running(web)] == [2, 3]
    room.change(web, BOTH, replicas=2)
    room.settle()
    assert room.addresses(web) == {1: "10.9.0.60/26", 2: "10.9.0.61/26"}


def test_a_rollback_goes_back_to_the_addresses() -> None:
    room = Room()
    web = room.create(BOTH, replicas=2)
    room.settle()
    room.change(web, {VIRTUAL: "10.9.0.51", TASKS: "10.9.0.55,10.9.0.56"}, replicas=2)
    room.settle()
    room.roll_back(web)
    room.settle()
    assert room.virtual(web) == ["10.9.0.50/26"]
    assert room.addresses(web) == {1: "10.9.0.60/26", 2: "10.9.0.61/26"}
    taken = room.create({VIRTUAL: "10.9.0.51"}, "taken")
    room.settle()
    assert room.virtual(taken) == ["10.9.0.51/26"]
    with pytest.raises(InvalidArgument, match="service taken has 10.9.0.51 on network net"):
        room.roll_back(web)


def test_an_update_that_fails_goes_back_to_addresses_that_were_kept_meanwhile() -> None:
    room = Room()
    update = UpdateConfig(failure_action="rollback", monitor=30 * SECOND)
    web = room.create(BOTH, replicas=2, update=update)
    room.settle()
    room.failing.add("broken")
    labels = {VIRTUAL: "10.9.0.51", TASKS: "10.9.0.55,10.9.0.56"}
    room.change(web, labels, replicas=2, image="broken", update=update)
    room.run("orchestrator")
    with pytest.raises(InvalidArgument, match=r"(service|task) web(.1)? has 10.9.0.60"):
        room.create({TASKS: "10.9.0.60"}, "other")
    room.settle()
    assert room.virtual(web) == ["10.9.0.50/26"]
    assert room.addresses(web) == {1: "10.9.0.60/26", 2: "10.9.0.61/26"}


def test_a_network_in_use_by_name_stays_and_a_reload_changes_nothing() -> None:
    room = Room()
    web = room.create(BOTH, replicas=2)
    with pytest.raises(FailedPrecondition, match="is in use by service"):
        removal(room.state, room.net)
    room.settle()
    stored = ((type(o), codec.encode(o)) for o in room.state.objects())
    fresh = ClusterState(codec.decode(data, kind) for kind, data in stored)
    assert dict(fresh.usage.fixed(room.net)) == dict(room.state.usage.fixed(room.net))
    assert {str(IPv4Address(a)) for a in fresh.usage.fixed(room.net)} == {
        "10.9.0.50",
        "10.9.0.60",
        "10.9.0.61",
    }
    for loop in LOOPS:
        assert room.decide_anew(loop).changes == ()
    room.remove(room.state.services[web])
    assert not room.state.usage.fixed(NetworkId(room.net))
