"""The package as `scripts/package` builds it, once for all tests; and its next version."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.package.booted_host import BootedHost, Lan

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """WEFT_PACKAGES names a directory with a package that is built already."""
    given = os.environ.get("WEFT_PACKAGES")
    directory = Path(given) if given else tmp_path_factory.mktemp("dist")
    if given is None:
        subprocess.run([ROOT / "scripts/package", directory], check=True)
    (found,) = directory.glob("weft-swarm_*_amd64.deb")
    return found


@pytest.fixture(scope="session")
def next_package(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same program with a higher number."""
    scratch = tmp_path_factory.mktemp("next")
    tree, result = scratch / "tree", scratch / "next.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    for path in (tree / "DEBIAN/control", tree / "usr/lib/weft-swarm/site/weft/__init__.py"):
        path.write_text(re.sub(r"\b0\.\d+\.\d+\b", "9.9.9", path.read_text(), count=1))
    subprocess.run(["dpkg-deb", "-Zgzip", "--build", tree, result], check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    return result


@pytest.fixture(scope="session")
def demo_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from weft.lab import demo_image

    archive = tmp_path_factory.mktemp("image") / "demo.tar"
    demo_image.build(archive)
    return archive


@pytest.fixture(params=["bookworm", "trixie"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BootedHost]:
    with BootedHost(request.param, tmp_path) as host:
        ready(host)
        yield host


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Lan, BootedHost, BootedHost]]:
    """A host of each release, on one network."""
    old, new = (tmp_path / release for release in ("bookworm", "trixie"))
    old.mkdir()
    new.mkdir()
    with Lan() as lan, BootedHost("bookworm", old) as first, BootedHost("trixie", new) as second:
        for number, host in enumerate((first, second), 1):
            ready(host)
            host.attach(lan, f"10.59.76.1{number}")
            host.sh(f"echo host{number} >/etc/hostname; hostname host{number}")
        yield lan, first, second


def ready(host: BootedHost) -> None:
    host.boot()
    host.put(Path(shutil.which("docker") or "docker"), "/usr/local/bin/docker")
    host.sh("chmod 755 /usr/local/bin/docker")
