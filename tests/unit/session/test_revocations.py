"""A node's list of revoked certificates: what it takes in, what leaves it, and what the disk
keeps."""

import asyncio
from pathlib import Path

import pytest

from weft.errors import OperationFailed
from weft.model.certificate import LAG, ManagerCertificate
from weft.model.meta import SECOND
from weft.session.revocations import FILE, MOST, Revocations

NOW = 1_700_000_000 * SECOND


def certificate(serial: str, expires: int = NOW + 3600 * SECOND) -> ManagerCertificate:
    return ManagerCertificate(serial, expires)


def test_it_holds_over_a_restart_and_grows_only(tmp_path: Path) -> None:
    own = Revocations(tmp_path, lambda: NOW)
    assert not own.is_revoked("a")
    own.learn([certificate("a"), certificate("b")])
    own.learn([certificate("c")])
    own.learn([])
    for each in (own, Revocations(tmp_path, lambda: NOW)):
        assert [each.is_revoked(serial) for serial in "abcd"] == [True, True, True, False]


def test_expired_certificates_leave_it(tmp_path: Path) -> None:
    now = NOW
    own = Revocations(tmp_path, lambda: now)
    own.learn([certificate("a", NOW), certificate("b")])
    now = NOW + LAG
    own.learn([certificate("c", now + SECOND)])
    again = Revocations(tmp_path, lambda: now)
    assert [again.is_revoked(serial) for serial in "abc"] == [False, True, True]


def test_it_is_bounded_and_what_was_named_last_has_room(tmp_path: Path) -> None:
    own = Revocations(tmp_path, lambda: NOW)
    own.learn([certificate(f"false{number}") for number in range(3 * MOST)])
    own.learn([certificate("true")])
    again = Revocations(tmp_path, lambda: NOW)
    assert again.is_revoked("true")
    assert again.is_revoked("false0")
    assert len(again._certificates) == MOST
    assert (tmp_path / FILE).stat().st_size < 200_000


def test_it_holds_although_the_disk_does_not_and_is_kept_when_the_disk_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Revocations(tmp_path, lambda: NOW)

    def full(_: object) -> None:
        raise OperationFailed("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(own._file, "write", full)
        own.learn([certificate("a")])
        assert own.is_revoked("a")
    assert not Revocations(tmp_path, lambda: NOW).is_revoked("a")
    own.learn([certificate("a")])
    assert Revocations(tmp_path, lambda: NOW).is_revoked("a")


def test_a_damaged_file_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"nonsense")
    own = Revocations(tmp_path, lambda: NOW)
    assert not own.is_revoked("a")
    own.learn([certificate("a")])
    assert Revocations(tmp_path, lambda: NOW).is_revoked("a")


def test_who_waits_is_woken_by_the_right_one(tmp_path: Path) -> None:
    async def main() -> None:
        own = Revocations(tmp_path, lambda: NOW)
        waiting = asyncio.create_task(own.revoked("b"))
        await asyncio.sleep(0)
        own.learn([certificate("a")])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        own.learn([certificate("b")])
        async with asyncio.timeout(5):
            await waiting
            await own.revoked("a")

    asyncio.run(main())
