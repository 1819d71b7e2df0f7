"""The lock of a manager's files on a real disk: whatever the moment at which a daemon dies, the next
one can be started, and gets everything with the key that the swarm has."""

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from weft.daemon.locked_files import LockedFiles
from weft.daemon.sealing_key_file import SealingKeyFile
from weft.errors import Damaged, OperationFailed, Unauthorized
from weft.model.ids import ClusterId, NodeId
from weft.model.meta import SECOND
from weft.model.node import Role
from weft.pki import authority
from weft.pki.authority import NodeCertificate
from weft.pki.sealing import SealingKey
from weft.session.identity import Credentials, IdentityStore, new_key
from weft.session.node_lock import NodeLock

FIRST, OTHER = SealingKey(b"1" * 32), SealingKey(b"2" * 32)
KEYS = (SealingKey(b"s" * 32),)
STEPS = 5
"""More than any change of the lock takes."""


def credentials(role: Role) -> Credentials:
    root, key = authority.root(new_key(), time.time_ns(), 1), new_key()
    content = NodeCertificate(
        node=NodeId("n1"),
        role=role,
        cluster=ClusterId("c1"),
        serial=5,
        begin=time.time_ns(),
        lifetime=3600 * SECOND,
    )
    certificate = authority.issue(root, authority.request(key), content)
    return Credentials(certificate, authority.private_pem(key), root.certificate)


class Killed(OperationFailed):
    pass


class Fuse:
    """Burns after some steps: from then on nothing is written."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed("killed")


class DyingLock(NodeLock):
    fuse: Fuse

    def _write(self, content: bytes) -> None:
        self.fuse.step()
        super()._write(content)

    def forget(self) -> None:
        self.fuse.step()
        super().forget()


class DyingSealingKeyFile(SealingKeyFile):
    fuse: Fuse

    def write(self, keys: tuple[SealingKey, ...]) -> None:
        self.fuse.step()
        super().write(keys)


class Manager:
    """A daemon's part of the files."""

    def __init__(self, root: Path, held: Credentials | None = None, steps: int = 99) -> None:
        self.fuse = Fuse(steps)
        self.identity = IdentityStore(root / "swarm", root / "run")
        self.lock = DyingLock(root / "swarm", root / "run", os.urandom)
        self.identity.lock = self.lock
        self.sealing = DyingSealingKeyFile(root / "swarm" / "sealing-keys", self.lock)
        self.lock.fuse = self.sealing.fuse = self.fuse
        self.files = LockedFiles(self.lock, self.sealing, self._save)
        self.held = held or self._loaded()

    def _loaded(self) -> Credentials:
        place = self.identity.directory
        names = ("node.crt", "credentials/node.key", "root.crt")
        return Credentials(*((place / name).read_text() for name in names))

    def _save(self) -> None:
        self.fuse.step()
        self.identity.save_credentials(self.held)

    @property
    def is_locked(self) -> bool:
        return self.identity.is_locked(self.held)

    def unlock(self, key: SealingKey) -> None:
        self.held = self.identity.unlocked(self.held, key)
        self.identity.save_credentials(self.held)


def begun(root: Path, role: Role = "manager") -> Manager:
    manager = Manager(root, credentials(role))
    manager.identity.save_credentials(manager.held)
    manager.sealing.write(KEYS)
    return manager


def killed(manager: Manager, after: int, key: SealingKey | None) -> None:
    manager.fuse.left = after
    with suppress(Killed):
        manager.files.hold(key)


@pytest.mark.parametrize("after", range(STEPS))
@pytest.mark.parametrize(
    ("before", "then"), [(None, FIRST), (FIRST, OTHER), (FIRST, None)], ids=["on", "other", "off"]
)
def test_a_daemon_that_is_killed_leaves_files_that_one_of_the_keys_opens(
    tmp_path: Path, before: SealingKey | None, then: SealingKey | None, after: int
) -> None:
    first = begun(tmp_path)
    held = first.held
    first.files.hold(before)
    killed(first, after, then)

    second = Manager(tmp_path)
    if second.is_locked:
        with pytest.raises(Unauthorized):
            second.unlock(SealingKey(b"x" * 32))
        opened = False
        for key in (key for key in (before, then) if key is not None):
            try:
                second.unlock(key)
                opened = True
            except Unauthorized:
                continue
        assert opened
    assert second.held == held
    assert second.sealing.read() == KEYS

    second.files.hold(then)
    third = Manager(tmp_path)
    assert third.is_locked == (then is not None)
    if then is not None:
        third.unlock(then)
    assert (third.held, third.sealing.read()) == (held, KEYS)


@pytest.mark.parametrize("tries_again", [True, False])
@pytest.mark.parametrize("after", range(STEPS))
def test_a_disk_that_fails_for_a_while_costs_nothing(
    tmp_path: Path, after: int, tries_again: bool
) -> None:
    """The change that failed comes again, or another one."""
    manager = begun(tmp_path)
    held = manager.held
    changes = (FIRST, OTHER, None, OTHER, None)
    for key, then in zip(changes, (*changes[1:], FIRST), strict=True):
        killed(manager, after, key)
        manager.fuse.left = 99
        wanted = key if tries_again else then
        manager.files.hold(wanted)
        again = Manager(tmp_path)
        assert again.is_locked == (wanted is not None)
        if wanted is not None:
            again.unlock(wanted)
        assert (again.held, again.sealing.read()) == (held, KEYS)


def test_etcd_finds_the_key_in_memory_while_the_disk_has_it_locked(tmp_path: Path) -> None:
    manager = begun(tmp_path)
    seen = manager.identity.directory / "node.key"
    manager.files.hold(FIRST)
    assert seen.read_text() == manager.held.key
    assert seen.resolve().is_relative_to(tmp_path / "run")
    assert seen.resolve().stat().st_mode & 0o777 == 0o600
    (tmp_path / "run" / "node.key").unlink()  # as after a reboot
    again = Manager(tmp_path)
    again.unlock(FIRST)
    assert seen.read_text() == manager.held.key
    again.files.hold(None)
    assert seen.read_text() == manager.held.key
    assert not list((tmp_path / "run").iterdir())


def test_a_new_certificate_has_a_locked_key_as_long_as_it_is_a_managers(tmp_path: Path) -> None:
    manager = begun(tmp_path)
    manager.files.hold(FIRST)
    manager.held = credentials("manager")
    manager.identity.save_credentials(manager.held)
    assert Manager(tmp_path).is_locked
    assert (manager.identity.directory / "node.key").read_text() == manager.held.key
    manager.held = credentials("worker")
    manager.identity.save_credentials(manager.held)
    assert not Manager(tmp_path).is_locked
    assert (manager.identity.directory / "node.key").read_text() == manager.held.key


def test_a_locked_file_is_not_taken_for_another_nor_changed(tmp_path: Path) -> None:
    manager = begun(tmp_path)
    manager.files.hold(FIRST)
    place = manager.identity.directory
    sealed = (place / "sealing-keys").read_bytes()
    (place / "sealing-keys").write_bytes((place / "credentials/node.key").read_bytes())
    with pytest.raises(Damaged, match="sealing-keys: it is damaged"):
        manager.sealing.read()
    (place / "sealing-keys").write_bytes(sealed[:-9] + b"AAAAAAA=\n")
    with pytest.raises(Damaged):
        manager.sealing.read()
    manager.files.hold(None)  # it stays for an operator, and the rest goes on
    assert not Manager(tmp_path).is_locked


def test_a_lock_that_is_lost_is_said_to_be(tmp_path: Path) -> None:
    begun(tmp_path).files.hold(FIRST)
    (tmp_path / "swarm" / "lock").unlink()
    with pytest.raises(Damaged, match=r"lock: No such file.*Restore the file"):
        Manager(tmp_path).unlock(FIRST)
