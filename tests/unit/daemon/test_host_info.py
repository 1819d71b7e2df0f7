"""What a host is called: kept on its disk, and made anew where that was damaged."""

from pathlib import Path

import pytest

from weft.daemon import host_info as hostinfo


def engine_id(data_root: Path) -> str:
    return hostinfo.read(data_root, 0).engine_id


@pytest.mark.parametrize(
    "content", [b"", b"0123", bytes(36), b"\xff" * 36, b"../../../../etc/passwd"]
)
def test_an_engines_id_stays_and_a_damaged_one_is_made_anew(tmp_path: Path, content: bytes) -> None:
    first = engine_id(tmp_path)
    assert len(first) == 36
    assert engine_id(tmp_path) == first
    (tmp_path / "engine-id").write_bytes(content)
    second = engine_id(tmp_path)
    assert len(second) == 36
    assert second != first
    assert engine_id(tmp_path) == second
