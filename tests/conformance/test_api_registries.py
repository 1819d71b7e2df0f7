"""Private registries through the docker command: login, pull, the digest of a service's image."""

from pathlib import Path

from tests.conformance.client import Daemon
from tests.support.fake_images import CREDENTIALS, PRIVATE

REGISTRY = PRIVATE.rstrip("/")
IMAGE = f"{PRIVATE}team/app:1"


def logged_in(manager: Daemon, tmp_path: Path) -> tuple[str, str]:
    """Options of the docker command whose user is logged in."""
    config = ("--config", str(tmp_path / "config"))
    user = ("--username", CREDENTIALS.username, "--password", CREDENTIALS.password)
    assert "Login Succeeded" in manager.ok(*config, "login", *user, REGISTRY)
    return config


def test_login_is_asked_of_the_registry(manager: Daemon, tmp_path: Path) -> None:
    logged_in(manager, tmp_path)
    wrong = ("--config", str(tmp_path / "other"), "login", "--username", "me", "--password", "no")
    assert "unauthorized: incorrect username or password" in manager.refused(*wrong, REGISTRY)
    assert not (tmp_path / "other").exists()


def test_pull_with_and_without_a_password(manager: Daemon, tmp_path: Path) -> None:
    config = logged_in(manager, tmp_path)
    assert "pull access denied" in manager.refused("pull", IMAGE)
    assert "Downloaded newer image" in manager.ok(*config, "pull", IMAGE)
