"""What several tests of the adapters are given."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from weft.runtime.images import ImageStore
from weft.runtime.mounts import unmount
from weft.system.process import adopt_orphans


@pytest.fixture(autouse=True)
def orphans_are_not_ours() -> None:
    """A runtime in this process takes in orphans. The next test begins without that: what is killed
    there would stay as a zombie that nobody reaps."""
    adopt_orphans(False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB and 5,000 inodes."""
    (tmp_path / "images").mkdir()
    mount = [
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=64m,nr_inodes=5000,mode=700",
        "tmpfs",
        str(tmp_path / "images"),
    ]
    subprocess.run(mount, check=True)
    yield tmp_path
    unmount(tmp_path / "images")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """An image store that keeps its files in `images`."""
    return ImageStore(tmp_path / "images", time.time_ns)
