"""`apt purge` takes away what Weft made, and nothing that an administrator keeps beside it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from weft.daemon.options import SWARM
from weft.network.ownership import (
    ESP_SANDBOX,
    INGRESS_SANDBOX,
    balancer_namespace,
    overlay_namespace,
    owns_table,
)

ROOT = Path(__file__).parents[2]
POSTRM = ROOT / "packaging/debian/postrm"


def shell(commands: str, **variables: str) -> str:
    """Runs functions of the script."""
    done = subprocess.run(
        ["sh", "-c", f". {POSTRM}; {commands}"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_what_others_keep_in_the_data_root_stays(tmp_path: Path) -> None:
    """An administrator may name a directory that is there already."""
    for name in ("containers/ab/upper", "volumes/v/_data", "swarm", "photos/2024"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    (tmp_path / "engine-id").write_text("x")
    (tmp_path / "esp").symlink_to(tmp_path / "photos")
    said = shell(f'remove_named "{tmp_path}" "$DATA_NAMES"')
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    assert (tmp_path / "photos/2024/file").read_text() == "x"
    assert "other things are in it" in said


@pytest.mark.parametrize("is_there", [True, False])
def test_a_data_root_with_nothing_else_is_gone(tmp_path: Path, is_there: bool) -> None:
    data = tmp_path / "weft"
    if is_there:
        (data / "images").mkdir(parents=True)
    assert shell(f'remove_named "{data}" "$DATA_NAMES"') == ""
    assert not data.exists()


def test_namespaces_that_others_have_pinned_stay(tmp_path: Path) -> None:
    own = [
        INGRESS_SANDBOX, ESP_SANDBOX, overlay_namespace("k2" * 12), balancer_namespace("k2" * 12),
        "0123456789ab",
    ]  # fmt: skip
    others = ["vpn", "customer-net", "blue", "cni-12345678"]
    directory = tmp_path / "docker" / "netns"
    directory.mkdir(parents=True)
    for name in (*own, *others):
        (directory / name).touch()
    shell("remove_namespaces", NAMESPACES=str(directory))
    assert sorted(path.name for path in directory.iterdir()) == sorted(others)
    for name in others:
        (directory / name).unlink()
    shell("remove_namespaces", NAMESPACES=str(directory))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('data-root = "/srv/weft"', "/srv/weft"),
        ('data-root = "/srv/weft"  # was "/srv/old"', "/srv/weft"),
        ('# data-root = "/srv/weft"', "/usual/place"),
        ('data-root = "/srv/../home/me"', "/usual/place"),
        ('data-root = "/srv"', "/usual/place"),
        ('data-root = "srv/weft"', "/usual/place"),
    ],
)
def test_directories_are_those_of_the_configuration(tmp_path: Path, line: str, found: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(line + "\n")
    assert shell(f'CONFIG="{config}"; setting data-root /usual/place').strip() == found


def test_the_directories_of_the_daemon_are_all_known() -> None:
    """Whoever adds one adds it to the script."""
    names = shell('echo "$DATA_NAMES"').split()
    sources = (ROOT / "src/weft").rglob("*.py")
    used = {
        {"SWARM": SWARM}.get(name) or name.strip('"')
        for source in sources
        for name in re.findall(r'data_root / ("[^"]+"|[A-Z_]+)', source.read_text())
    }
    assert used <= set(names)
    assert {"images", "networks", "swarm", "esp", "engine-id"} <= used


def test_tables_that_the_documentation_has_administrators_make_are_theirs() -> None:
    """The daemon removes what has a name like its own and is not wanted, and so does a purge."""
    pages = (ROOT / "docs").rglob("*.md")
    tables = [
        name
        for page in pages
        for name in re.findall(r"^\s+table [a-z0-9]+ (\S+) \{", page.read_text(), re.MULTILINE)
    ]
    assert tables
    assert not [name for name in tables if owns_table(name)]


STARTED = {
    "conmon": ("--sync", "--bundle", "{data}/containers/ab", "--full-attach"),
    "etcd": ("--name=n", "--data-dir={data}/swarm/etcd"),
    "python3": ("-P", "-m", "weft.linux.esp.process", "{run}/esp.sock", "{data}/esp"),
}
"""The arguments of the programs that a daemon starts, by the name of the program."""
OTHERS = {
    "conmon": ("--bundle", "/var/lib/containers/x", "--log", "{data}/containers/ab"),
    "etcd": ("--data-dir=/var/lib/etcd", "--config={data}/swarm/etcd"),
    "python3": ("backup.py", "{data}/volumes", "{run}/esp.log"),
    "tar": ("--bundle", "{data}/containers/ab", "--data-dir={data}/swarm/etcd"),
}


@pytest.mark.parametrize(
    ("program", "arguments", "ours"),
    [*((*pair, True) for pair in STARTED.items()), *((*pair, False) for pair in OTHERS.items())],
)
def test_only_processes_that_the_daemon_has_started_are_ended(
    tmp_path: Path, program: str, arguments: tuple[str, ...], ours: bool
) -> None:
    data, run = tmp_path / "data.root", tmp_path / "run"
    for gone in ("", " (deleted)"):
        process = tmp_path / f"process{gone}"
        process.mkdir()
        (process / "exe").symlink_to(f"/usr/bin/{program}{gone}")
        words = [word.format(data=data, run=run) for word in (program, *arguments)]
        (process / "cmdline").write_bytes(b"".join(f"{word}\0".encode() for word in words))
        said = shell(f'DATA="{data}" RUN="{run}"; if is_ours "{process}"; then echo yes; fi')
        assert said == ("yes\n" if ours else "")
