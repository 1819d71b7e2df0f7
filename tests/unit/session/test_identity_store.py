"""Who a node is, on its disk: nobody yet, somebody, or somebody who cannot tell any more, which is
not the same as nobody."""

from pathlib import Path

import pytest

from weft.errors import Damaged
from weft.session.identity import AGENT, IdentityStore


def test_a_node_without_files_is_part_of_no_swarm(tmp_path: Path) -> None:
    assert IdentityStore(tmp_path / "swarm").load() is None
    assert IdentityStore(tmp_path).load() is None


DIRECTORY = b"a directory"


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "it is missing"), (b"{}", "missing required field"), (b"x", "malformed"),
        (DIRECTORY, "Is a directory"),
    ],
)  # fmt: skip
def test_a_node_that_has_run_tasks_and_lost_its_membership_says_so(
    tmp_path: Path, content: bytes | None, cause: str
) -> None:
    """Taken for a new host it would join again beside itself, with containers that nobody
    removes."""
    (tmp_path / AGENT).mkdir()
    if content is DIRECTORY:  # as unreadable as a broken disk, for root too
        (tmp_path / "member.json").mkdir()
    elif content is not None:
        (tmp_path / "member.json").write_bytes(content)
    with pytest.raises(Damaged) as lost:
        IdentityStore(tmp_path).load()
    assert str(tmp_path / "member.json") in str(lost.value)
    assert cause in str(lost.value)
