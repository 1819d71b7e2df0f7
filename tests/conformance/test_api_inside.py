"""`docker cp`, `stats`, `diff`, `export` and the events of commands, as the stock command asks."""

import io
import tarfile
from pathlib import Path

from tests.conformance.client import Daemon


def test_files_go_both_ways(manager: Daemon, tmp_path: Path) -> None:
    container = manager.container(script="sleep 60")
    root = manager.node.files.root(container)
    (root / "etc").mkdir()
    (root / "etc/motd").write_text("welcome")
    (root / "link").symlink_to("etc")
    manager.ok("cp", f"{container}:/etc", str(tmp_path / "copy"))
    assert (tmp_path / "copy/motd").read_text() == "welcome"
    manager.ok("cp", "-L", f"{container}:/link", str(tmp_path / "followed"))
    assert (tmp_path / "followed/motd").read_text() == "welcome"
    (tmp_path / "new").write_text("x")
    manager.ok("cp", str(tmp_path / "new"), f"{container}:/link/renamed")
    assert (root / "etc/renamed").read_text() == "x"
    manager.ok("cp", str(tmp_path / "copy"), f"{container}:/etc")
    assert (root / "etc/copy/motd").read_text() == "welcome"
    archive = manager.run("cp", f"{container}:/etc/motd", "-").stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        assert opened.getnames() == ["motd"]
    assert "Could not find the file /nope in container" in manager.refused(
        "cp", f"{container}:/nope", str(tmp_path)
    )
    assert "Could not find the file /no in container" in manager.refused(
        "cp", str(tmp_path / "new"), f"{container}:/no/such"
    )


def test_use_changes_and_whole(manager: Daemon) -> None:
    container = manager.container(script="sleep 60")
    (manager.node.files.root(container) / "file").write_text("x")
    form = "{{.CPUPerc}} {{.MemUsage}} {{.NetIO}} {{.PIDs}}"
    shown = manager.ok("stats", "--no-stream", "--format", form, container).strip()
    assert shown == "50.00% 32MiB / 64MiB 1kB / 2kB 3"
    assert manager.ok("diff", container).split("\n") == ["C /tmp", "A /tmp/x", "D /bin", ""]
    assert b"file\0" in manager.run("export", container).stdout
