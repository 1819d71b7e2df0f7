"""The index of images: nothing that happens to one file of it costs more than one image."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from weft.model.container import Image, ImageConfig
from weft.runtime.image_index import ImageIndex

ONE = Image(id=f"sha256:{1:064x}", tags=("one:1",), layers=(f"sha256:{3:064x}",), size=2**60)
TWO = Image(id=f"sha256:{2:064x}", config=ImageConfig(env=("A=b",), exposed_ports=((80, "tcp"),)))


@pytest.fixture
def index(tmp_path: Path) -> ImageIndex:
    index = ImageIndex(tmp_path)
    index.write([ONE, TWO])
    return index


def test_what_is_written_is_read(index: ImageIndex, caplog: pytest.LogCaptureFixture) -> None:
    assert index.read() == [ONE, TWO]
    assert not caplog.records


def test_a_first_start_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert ImageIndex(tmp_path).read() == []
    assert not caplog.records


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "garbage": lambda path: path.write_bytes(b"\xff\xfe garbage"),
    "another type": lambda path: path.write_bytes(b'{"images": 5}'),
    "nested": lambda path: path.write_bytes(b"[" * 100_000),
    "absent": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
@pytest.mark.parametrize("name", ["index.json", "index.json.copy"])
def test_one_damaged_file_costs_nothing(
    index: ImageIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, name: str
) -> None:
    before = (tmp_path / name).read_bytes()
    DAMAGE[damage](tmp_path / name)
    with caplog.at_level(logging.WARNING):
        assert index.read() == [ONE, TWO]
    said = [record.getMessage().split()[0] for record in caplog.records]
    assert ("images.restored" in said) == (name == "index.json")
    if name == "index.json" or damage == "absent":
        assert (tmp_path / name).read_bytes() == before, "there are two of them again"


def test_if_both_are_damaged_the_daemon_starts_without_images_and_says_so(
    index: ImageIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("index.json", "index.json.copy"):
        (tmp_path / name).write_bytes(b"zeros")
    assert index.read() == []
    assert any(record.getMessage().startswith("images.lost") for record in caplog.records)
    assert (tmp_path / "index.json.damaged").read_bytes() == b"zeros"


def test_an_entry_that_cannot_be_read_costs_its_image_only(
    index: ImageIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = json.loads((tmp_path / "index.json").read_bytes())
    bad = {"id": f"sha256:{9:064x}", "tags": ["bad:1"], "config": {"cmd": ["a", 5]}}
    climbing = {"id": f"sha256:{8:064x}", "layers": ["sha256:../../../etc"]}
    written = [entries[0], bad, 5, climbing, None, entries[1]]
    (tmp_path / "index.json").write_text(json.dumps(written))
    assert index.read() == [ONE, TWO]
    said = [record.getMessage() for record in caplog.records]
    assert [line.split()[0] for line in said] == ["images.skipped"] * 4
    assert "image='bad:1' cause=Expected `str`, got `int` - at `$.config.cmd[1]`" in said[0]
    assert json.loads((tmp_path / "index.json.damaged").read_bytes()) == written


def test_an_index_of_another_version_is_read(index: ImageIndex, tmp_path: Path) -> None:
    """A newer one has fields that we do not know, an older one lacks some."""
    entries = json.loads((tmp_path / "index.json").read_bytes())
    entries[0] |= {"new": {"a": [1]}}
    entries[1] |= {"config": {**entries[1]["config"], "new": 5}}
    (tmp_path / "index.json").write_text(json.dumps([*entries, {"id": f"sha256:{4:064x}"}]))
    assert index.read() == [ONE, TWO, Image(id=f"sha256:{4:064x}")]
