"""Secrets and configs in assignments: bounded messages, and references that are checked."""

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.control.assignments import differences
from weft.control.assignments.differences import MOST_DATA, difference, in_pieces
from weft.control.requests.references import check_references
from weft.errors import InvalidArgument
from weft.model.assignment import Assignment
from weft.model.ids import ConfigId, NodeId, SecretId
from weft.model.secret import Config, DataReference, DataSpec, Payload, Sealed, Secret
from weft.model.service import ContainerSpec
from weft.model.state import ClusterState, Put

NODE = NodeId("node1")


def assignment(secrets: dict[str, int], configs: dict[str, int]) -> Assignment:
    return Assignment(
        node=NODE,
        secrets={SecretId(id): Payload(id=id, data=b"s" * size) for id, size in secrets.items()},
        configs={ConfigId(id): Payload(id=id, data=b"c" * size) for id, size in configs.items()},
    )


def data_in(change: object) -> int:
    return sum(len(each.data) for each in (*change.secrets, *change.configs))  # type: ignore[attr-defined]


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
