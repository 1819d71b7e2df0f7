"""Places of plain containers on networks of the swarm: how they are granted, what is refused and in
which words, what everybody learns of them, and what ends them."""

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec
import pytest

from tests.support.control_room import ControlRoom
from weft.control.assignments.assignment import assignment_for
from weft.control.assignments.views import network_views
from weft.control.orchestrator.nodes import ORPHANED_AFTER
from weft.control.requests import attachments, services
from weft.control.requests.attachments import attachment
from weft.control.requests.networks import leaving, removal
from weft.errors import (
    Conflict,
    Exhausted,
    FailedPrecondition,
    Forbidden,
    InvalidArgument,
    NotFound,
    WeftError,
)
from weft.model import codec
from weft.model.attached import AttachedContainer, AttachmentWanted
from weft.model.ids import ContainerId, NodeId, ServiceId, TaskId
from weft.model.network import NetworkSpec, Pool
from weft.model.node import NodeState
from weft.model.service import ContainerSpec, NetworkAttachmentSpec, ServiceSpec, TaskSpec
from weft.model.task import Task, TaskState

NODE1, NODE2 = NodeId("node1"), NodeId("node2")


class Room(ControlRoom):
    """Two nodes, an attachable network `net`, 10.9.0.0/29, and one that is not, `closed`."""

    def __init__(self) -> None:
        super().__init__(2)
        pool = Pool(IPv4Network("10.9.0.0/29"))
        self.net = self.network(NetworkSpec(name="net", attachable=True, pools=(pool,)))
        self.network(NetworkSpec(name="closed"))
        self.settle()

    def attach(
        self,
        name: str,
        network: str = "net",
        address: str = "",
        *,
        node: NodeId = NODE1,
        id: str = "",
        **names: Any,
    ) -> Task:
        container = ContainerId(name.encode().hex().ljust(64, "0"))
        wanted = AttachmentWanted(
            network=network,
            address=IPv4Address(address) if address else None,
            container=AttachedContainer(container=container, name=name, **names),
        )
        task = TaskId(id or self.new_id("place"))
        self.commit(attachment(self.state, node, task, wanted, self.now))
        return self.state.tasks[task]

    def present(self) -> dict[str, str]:
        """Addresses by the container's name."""
        found = self.state.tasks.values()
        return {t.name: str(t.attachments[0].address) for t in found if t.attached is not None}


def test_a_place_is_granted_at_once_and_keeps_its_address() -> None:
    room = Room()
    place = room.attach("web")
    assert str(place.attachments[0].address) == "10.9.0.2/29"
    assert (place.state, place.node, place.service) == (TaskState.ASSIGNED, NODE1, "")
    room.settle()
    assert room.present() == {"web": "10.9.0.2/29"}
    assert room.state.usage.load(NODE1).tasks == 0
    chosen = room.attach("own", address="10.9.0.6")
    assert str(chosen.attachments[0].address) == "10.9.0.6/29"
    room.settle()
    # The node's load balancer got 10.9.0.3, and the search goes on behind the last one.
    assert str(room.attach("next", room.net).attachments[0].address) == "10.9.0.4/29"


def test_a_node_has_so_many_places_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "MOST", 2)
    room = Room()
    room.attach("one")
    second = room.attach("two", id="second")
    with pytest.raises(Exhausted, match="cannot attach container three: its node has 2 places"):
        room.attach("three")
    assert room.attach("two", id="second") == second
    room.attach("three", node=NODE2)


def test_a_request_that_is_made_again_changes_the_names_alone() -> None:
    room = Room()
    first = room.attach("web", id="place")
    again = room.attach("web", id="place")
    assert again == first
    renamed = room.attach("other", id="place", aliases=("db",))
    assert (renamed.name, renamed.attachments) == ("other", first.attachments)
    with pytest.raises(Conflict, match="not a place of a container of this node"):
        room.attach("web", id="place", node=NODE2)
    room.report(renamed, TaskState.COMPLETE)
    with pytest.raises(Conflict, match="not a place of a container of this node"):
        room.attach("web", id="place")


@pytest.mark.parametrize(
    ("network", "address", "kind", "text"),
    [
        ("lost", "", NotFound, "network lost not found"),
        ("closed", "", Forbidden, "network closed not manually attachable"),
        ("ingress", "", Forbidden, "network ingress not manually attachable"),
        ("net", "10.9.1.2", InvalidArgument,
         "address 10.9.1.2 on network net is outside of the network's subnet 10.9.0.0/29"),
        ("net", "10.9.0.1", InvalidArgument, "is the network's gateway"),
        ("net", "10.9.0.7", InvalidArgument, "is the network or broadcast address"),
        ("net", "10.9.0.2", Conflict,
         "address 10.9.0.2 on network net is already in use by container web"),
        ("net", "10.9.0.3", Conflict, "is already in use by a node's load balancer"),
        ("net", "10.9.0.5", Conflict, "address 10.9.0.5 on network net is kept for a service"),
    ],
)  # fmt: skip
def test_what_is_refused_changes_nothing(
    network: str, address: str, kind: type[WeftError], text: str
) -> None:
    room = Room()
    room.attach("web")
    room.settle()
    spec = ServiceSpec(
        name="kept",
        replicas=0,
        labels={"weft.address.net": "10.9.0.5"},
        task=TaskSpec(
            container=ContainerSpec(image="app"), networks=(NetworkAttachmentSpec(room.net),)
        ),
    )
    room.commit(services.creation(room.state, ServiceId("kept"), spec, room.now))
    before = room.state.revision
    with pytest.raises(kind) as error:
        room.attach("own", network, address)
    assert text in str(error.value)
    assert room.state.revision == before


def test_a_full_network_is_refused() -> None:
    room = Room()
    for number in range(5):
        room.attach(f"c{number}")
    with pytest.raises(Exhausted, match="no available addresses on network net"):
        room.attach("late")


def test_all_nodes_of_the_network_learn_its_names_and_only_its_node_the_place() -> None:
    room = Room()
    place = room.attach("web", hostname="host", aliases=("db", "cache"))
    room.attach("far", node=NODE2)
    room.settle()
    views = network_views(room.state)
    own, far = (assignment_for(room.state, node, views) for node in (NODE1, NODE2))
    assert own.networks[room.net] is far.networks[room.net]
    assert own.networks[room.net].definition.attachable
    record = own.networks[room.net].endpoints[place.id]
    assert (record.name, record.service) == ("web", None)
    assert record.aliases == ("776562000000", "host", "db", "cache")
    assert list(own.tasks) == [place.id]
    assert own.tasks[place.id].attached == place.attached
    assert own.networks[room.net].load_balancer(NODE1) is not None


def test_a_view_that_follows_events_is_the_one_made_from_nothing() -> None:
    room = Room()
    views = network_views(room.state)
    room.events.clear()
    place = room.attach("web", aliases=("db",))
    room.attach("other", id=place.id)
    room.settle()
    assert network_views(room.state, views, room.events) == network_views(room.state)


def test_the_network_is_in_use_until_the_node_ends_the_place() -> None:
    room = Room()
    place = room.attach("web")
    room.settle()
    assert not leaving(room.state, room.net)
    with pytest.raises(
        FailedPrecondition, match=f"network {room.net} is in use by task {place.id}"
    ):
        removal(room.state, room.net)
    room.report(room.state.tasks[place.id], TaskState.COMPLETE)
    assert not room.state.usage.addresses(room.net).get(int(IPv4Address("10.9.0.2")))
    room.settle()
    assert room.present() == {}
    assert NODE1 not in room.state.nodes_attached(room.net)
    room.commit(removal(room.state, room.net))


def test_neither_drain_nor_a_lost_session_ends_a_place_but_a_day_does() -> None:
    room = Room()
    room.attach("web")
    room.set_node("node1", availability="drain")
    room.settle()
    assert room.attach("another").node == NODE1
    room.set_node("node1", NodeState.DOWN)
    room.settle(patience=ORPHANED_AFTER // 2)
    assert room.present().keys() == {"web", "another"}
    room.settle(patience=2 * ORPHANED_AFTER)
    assert room.present() == {}


def test_a_place_ends_with_its_node() -> None:
    room = Room()
    room.attach("web")
    room.attach("far", node=NODE2)
    room.remove(room.state.nodes[NODE1])
    room.settle()
    assert room.present() == {"far": "10.9.0.3/29"}


def test_a_service_does_not_get_the_address_of_a_container() -> None:
    room = Room()
    room.attach("web", address="10.9.0.5")
    spec = ServiceSpec(
        name="kept",
        labels={"weft.address.net": "10.9.0.5"},
        task=TaskSpec(
            container=ContainerSpec(image="app"), networks=(NetworkAttachmentSpec(room.net),)
        ),
    )
    with pytest.raises(InvalidArgument, match=r"container web has 10\.9\.0\.5 on network net"):
        services.creation(room.state, ServiceId("kept"), spec, room.now)


def test_a_place_of_another_daemon_version_has_none() -> None:
    """What is stored without the field reads as a task of a service."""
    room = Room()
    stored = codec.encode(msgspec.structs.replace(room.attach("web"), attached=None))
    assert b"\xa8attached" not in stored
    assert codec.decode(stored, Task).attached is None
