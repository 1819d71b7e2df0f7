"""What a host is called: kept on its disk, and made anew where that was damaged; and whether it is
being shut down."""

import os
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


@pytest.mark.parametrize(
    ("state", "is_init", "stopping"),
    [("stopping", True, True), ("running", True, False), ("stopping", False, False)],
)
def test_only_a_host_whose_init_says_so_is_being_shut_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, is_init: bool, stopping: bool
) -> None:
    program = tmp_path / "systemctl"
    program.write_text(f'#!/bin/sh\ntest "$1" = is-system-running && echo {state}; exit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    if is_init:
        (tmp_path / "system").mkdir()
    assert hostinfo.is_stopping(tmp_path / "system") is stopping


def test_a_host_whose_init_does_not_say_is_not_being_shut_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not hostinfo.is_stopping(tmp_path)
