"""Autolock as the stock docker command sees it: a manager that restarts waits for the key that users
hold. Its files are on a disk, and the daemon is started anew."""

import re
import shutil

import pytest

from tests.conformance.client import Daemon, eventually
from weft.model.secret import Secret

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")

KEY = re.compile(r"SWMKEY-1-[A-Za-z0-9+/]{43}")
LOCKED = (
    "Swarm is encrypted and needs to be unlocked before it can be used. Please use"
    ' "docker swarm unlock" to unlock it.'
)


def state(daemon: Daemon) -> str:
    return daemon.ok("info", "-f", "{{.Swarm.LocalNodeState}}").strip()


def unlock(daemon: Daemon, key: str) -> str:
    """What the command says."""
    done = daemon.run("swarm", "unlock", stdin=f"{key}\n".encode())
    return (done.stdout + done.stderr).decode()


def files(daemon: Daemon) -> list[bytes]:
    """The content of the node's own key and of the keys that seal secrets."""
    names = ("credentials/node.key", "sealing-keys")
    return [(daemon.swarm_files / name).read_bytes() for name in names]


def locked(daemon: Daemon) -> bool:
    return all(content.startswith(b"weft-locked-1:") for content in files(daemon))


def opened(daemon: Daemon, name: str) -> bytes:
    async def read() -> bytes:
        manager = daemon.node.manager
        secret = manager.swarm.state.named("secret", name)
        assert isinstance(secret, Secret)
        return manager._vault.opened(secret)

    return bytes(daemon.call(read()))


def test_a_manager_that_restarts_waits_for_the_key(daemon: Daemon) -> None:
    told = daemon.ok("swarm", "init", "--autolock")
    key = daemon.ok("swarm", "unlock-key", "-q").strip()
    assert KEY.fullmatch(key)
    assert key in told
    assert key in daemon.ok("swarm", "unlock-key")
    daemon.ok("secret", "create", "db", "-", stdin=b"hunter2")
    eventually(lambda: locked(daemon))
    assert "swarm is not locked" in unlock(daemon, key)

    daemon.restart()
    assert state(daemon) == "locked"
    assert daemon.ok("info", "-f", "{{.Swarm.ControlAvailable}}").strip() == "false"
    for refused in (
        ("node", "ls"),
        ("swarm", "unlock-key"),
        ("swarm", "init", "--force-new-cluster"),
    ):
        assert LOCKED in daemon.refused(*refused)
    assert "already part of a swarm" in daemon.refused("swarm", "init")
    assert "Swarm is encrypted and locked. Please unlock it" in daemon.refused("swarm", "leave")
    assert "invalid key string" in unlock(daemon, "nonsense")
    for wrong in (key[:-2] + "AA", "SWMKEY-1-", key[:20]):
        assert "swarm could not be unlocked: invalid key provided" in unlock(daemon, wrong)
    assert state(daemon) == "locked"
    assert unlock(daemon, key) == ""
    assert state(daemon) == "active"
    assert "Leader" in daemon.ok("node", "ls")
    assert opened(daemon, "db") == b"hunter2"
    daemon.until(lambda found: all(str(n.status.state) == "ready" for n in found.nodes.values()))
    assert locked(daemon)


def test_another_key_replaces_the_first_one(manager: Daemon) -> None:
    assert "no unlock key is set" in manager.refused("swarm", "unlock-key")
    assert not locked(manager)
    first = KEY.search(manager.ok("swarm", "update", "--autolock"))
    assert first is not None
    eventually(lambda: locked(manager))
    before = (manager.swarm_files / "lock").read_bytes()
    second = manager.ok("swarm", "unlock-key", "--rotate", "-q").strip()
    assert second != first[0]
    assert manager.ok(
        "info", "-f", "{{.Swarm.Cluster.Spec.EncryptionConfig.AutoLockManagers}}"
    ) == ("true\n")
    eventually(lambda: (manager.swarm_files / "lock").read_bytes() != before)
    manager.ok("swarm", "update", "--task-history-limit", "3")
    assert manager.ok("swarm", "unlock-key", "-q").strip() == second

    manager.restart()
    assert "invalid key provided" in unlock(manager, first[0])
    assert unlock(manager, second) == ""
    assert manager.ok("swarm", "unlock-key", "-q").strip() == second

    manager.ok("swarm", "update", "--autolock=false")
    eventually(lambda: not (manager.swarm_files / "lock").exists())
    assert b"PRIVATE KEY" in files(manager)[0]
    assert "no unlock key is set" in manager.refused("swarm", "unlock-key")
    manager.restart()
    assert state(manager) == "active"


def test_no_file_shows_what_the_lock_protects(manager: Daemon) -> None:
    eventually((manager.swarm_files / "sealing-keys").exists)
    plain = files(manager)
    manager.ok("swarm", "update", "--autolock")
    key = manager.ok("swarm", "unlock-key", "-q").strip()
    eventually(lambda: locked(manager))

    async def secrets() -> list[bytes]:
        return [held.secret for held in manager.node.manager._vault.keys]

    protected = [*manager.call(secrets()), plain[0].splitlines()[1], key.encode()]
    for path in manager.swarm_files.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            assert not any(secret in content for secret in protected), path


def test_a_worker_is_never_locked(worker: Daemon, manager: Daemon) -> None:
    manager.ok("swarm", "update", "--autolock")
    eventually(lambda: locked(manager))
    assert "not a swarm manager" in worker.refused("swarm", "unlock-key")
    worker.restart()
    assert state(worker) == "active"
    assert "swarm is not locked" in unlock(worker, "SWMKEY-1-")


def test_a_locked_manager_can_give_its_membership_up(daemon: Daemon) -> None:
    daemon.ok("swarm", "init", "--autolock")
    eventually(lambda: locked(daemon))
    daemon.restart()
    assert state(daemon) == "locked"
    daemon.ok("swarm", "leave", "--force")
    assert state(daemon) == "inactive"
    assert not daemon.swarm_files.exists()
    daemon.ok("swarm", "init")
    daemon.restart()
    assert state(daemon) == "active"
