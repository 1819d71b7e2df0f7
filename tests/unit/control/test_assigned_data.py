"""Secrets and configs in assignments: bounded messages, and references that are checked."""

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.control_room import LOOPS, ControlRoom
from weft.control.assignments import differences
from weft.control.assignments.assignment import Opened, assignment_for
from weft.control.assignments.differences import MOST_DATA, difference, in_pieces
from weft.control.assignments.views import network_views
from weft.control.orchestrator.updater import with_spec
from weft.control.requests.references import check_references
from weft.errors import InvalidArgument
from weft.model.assignment import Assignment, AssignmentChange
from weft.model.ids import ConfigId, NodeId, SecretId
from weft.model.meta import SECOND
from weft.model.secret import Config, DataReference, DataSpec, Payload, Sealed, Secret
from weft.model.service import ContainerSpec, Placement, ServiceSpec, TaskSpec, UpdateConfig
from weft.model.state import ClusterState, Put

NODE = NodeId("node1")


def assignment(secrets: dict[str, int], configs: dict[str, int]) -> Assignment:
    return Assignment(
        node=NODE,
        secrets={SecretId(id): Payload(id=id, data=b"s" * size) for id, size in secrets.items()},
        configs={ConfigId(id): Payload(id=id, data=b"c" * size) for id, size in configs.items()},
    )


def data_in(change: AssignmentChange) -> int:
    return sum(len(each.data) for each in (*change.secrets, *change.configs))


sizes = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 40), max_size=6)


@given(sizes, sizes, sizes, sizes)
def test_pieces_are_bounded_and_together_are_the_whole(
    secrets: dict[str, int], configs: dict[str, int], more: dict[str, int], others: dict[str, int]
) -> None:
    old, new = assignment(secrets, configs), assignment(more, others)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(differences, "MOST_DATA", 50)
        for known in (None, old):
            pieces = list(in_pieces(difference(known, new)))
            assert all(data_in(p) <= 50 for p in pieces)
            assert sum(piece.full for piece in pieces) == (known is None) == pieces[0].full
            assert reduce(Assignment.after, pieces, known or Assignment(node=NODE)) == new


def test_a_small_change_is_one_message_which_nodes_share() -> None:
    change = difference(None, assignment({"a": 1000}, {"b": 1000}))
    assert list(in_pieces(change)) == [change]
    assert next(in_pieces(change)) is change
    assert MOST_DATA > 1000 * 1024


# --- references


def state() -> ClusterState:
    made = ClusterState()
    secret = Secret(id=SecretId("s"), spec=DataSpec(name="db"), sealed=Sealed("", b"", b""))
    config = Config(id=ConfigId("c"), spec=DataSpec(name="app"), data=b"x")
    made.apply([Put(secret), Put(config)], 1)
    return made


def reference(id: str, name: str, target: str) -> DataReference:
    return DataReference(id=id, name=name, target=target)


DB, APP = reference("s", "db", "db"), reference("c", "app", "app")


def test_good_references() -> None:
    check_references(state(), ContainerSpec(image="i", secrets=(DB,), configs=(APP,)))
    same_name = (reference("s", "db", "x"), reference("s", "db", "/x"))
    check_references(state(), ContainerSpec(image="i", secrets=same_name))


@pytest.mark.parametrize(
    ("secrets", "configs", "said"),
    [
        ([("", "db", "a")], [], "malformed secret reference"),
        ([("s", "", "a")], [], "malformed secret reference"),
        ([("s", "db", "")], [], "malformed file secret reference, invalid target file name"),
        ([("s", "db", "a\0")], [], "malformed file secret reference, invalid target file name"),
        ([("s", "db", "a/")], [], "malformed file secret reference, invalid target file name"),
        ([("s", "db", "x" * 5000)], [], "malformed file secret reference, invalid target"),
        ([], [("c", "app", "/..")], "'/..' is the root directory"),
        ([("s", "db", "a"), ("s", "db", "a")], [], "secret references 'db' and 'db' have a conflicting target: 'a'"),
        ([], [("c", "app", "a"), ("c", "app", "a")], "config references 'app' and 'app' have a conflicting target: 'a'"),
        ([("s", "db", "a"), ("s", "db", "/run/secrets/a")], [], "conflicting target: '/run/secrets/a'"),
        ([("s", "db", "a")], [("c", "app", "run/./secrets/a")], "secret 'db' and config 'app' have a conflicting target"),
        ([("other", "db", "a")], [], "secret not found: db"),
        ([("s", "other", "a")], [], "secret not found: other"),
        ([("x", "one", "a"), ("y", "two", "b")], [], "secrets not found: one, two"),
        ([], [("s", "db", "a")], "config not found: db"),
    ],
)  # fmt: skip
def test_bad_references(
    secrets: list[tuple[str, str, str]], configs: list[tuple[str, str, str]], said: str
) -> None:
    container = ContainerSpec(
        image="i",
        secrets=tuple(reference(*each) for each in secrets),
        configs=tuple(reference(*each) for each in configs),
    )
    with pytest.raises(InvalidArgument) as caught:
        check_references(state(), container)
    assert said in str(caught.value)
    assert str(caught.value).startswith("rpc error: code = InvalidArgument desc = ")


# --- the cost of a rotation


def test_a_rotated_secret_is_sent_once_to_each_node_with_a_task_of_it() -> None:
    """However many tasks a node has: twelve tasks on three of four nodes."""

    def spec(number: int) -> ServiceSpec:
        container = ContainerSpec(image="i", secrets=(reference(f"s{number}", "db", "pw"),))
        placement = Placement(constraints=("node.hostname != node4",))
        task = TaskSpec(container=container, placement=placement)
        return ServiceSpec(
            name="web", replicas=12, task=task, update=UpdateConfig(parallelism=0, monitor=0)
        )

    room = ControlRoom(nodes=4)
    for id in ("s0", "s1"):
        room.put(Secret(id=SecretId(id), spec=DataSpec(name=id), sealed=Sealed("", b"", b"")))
    payloads = {id: Payload(id=id, data=b"x" * 1000) for id in ("s0", "s1")}
    opened = Opened(lambda found: payloads[found.id], lambda _: None)
    told: dict[NodeId, Assignment] = {}
    sent: list[tuple[NodeId, str]] = []
    gone: list[tuple[NodeId, str]] = []

    def turn() -> None:
        for loop in LOOPS:
            room.run(loop)
        room.run_agents(6)
        room.now += SECOND
        views = network_views(room.state)
        for node in room.state.nodes:
            new = assignment_for(room.state, node, views, None, opened)
            change = difference(told.get(node), new)
            told[node] = new
            sent.extend((node, each.id) for each in change.secrets)
            gone.extend((node, id) for id in change.removed_secrets)

    service = room.service(spec(0))
    for _ in range(8):
        turn()
    room.put(with_spec(room.state.services[service], spec(1)))
    for _ in range(20):
        turn()
    assert len(room.running(service)) == 12
    nodes = ("node1", "node2", "node3")
    assert sorted(sent) == sorted((NodeId(n), id) for n in nodes for id in payloads)
    assert sorted(gone) == [(NodeId(n), "s0") for n in nodes]
