"""Containers by the real conmon and runc, in a directory of their own: how tests make them, and
what they may not leave behind."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from weft.lab import demo_image
from weft.model.container import ContainerConfig
from weft.model.ids import ContainerId
from weft.model.service import ContainerSpec, Resources
from weft.runtime.base import Attached
from weft.runtime.conmon import ConmonRuntime
from weft.runtime.images import ImageStore
from weft.runtime.mounts import mount_points_below
from weft.runtime.oci import processes_with_argument
from weft.runtime.volumes import LocalVolumes

NEEDED = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("conmon"), reason="needs root, conmon and runc"
    ),
]
IMAGE = "zaggash/demo-webapp:latest"
_PREFIX = "WEFT_TEST_PREFIX"
os.environ.setdefault(_PREFIX, f"{os.getpid():08x}")
"""Of all container ids of this run, also in the daemons that it starts: so their cgroups can be
told from others'."""
PATIENCE = 20.0
"""Seconds until a test gives up waiting."""


class Host:
    """A data root, and runtimes on it one after the other, as daemons come and go."""

    def __init__(self, directory: Path) -> None:
        self.data, self.run = directory / "data", directory / "run"

    async def runtime(self, **options: Any) -> ConmonRuntime:
        self.volumes = LocalVolumes(self.data)
        self.volumes.load()
        runtime = ConmonRuntime(
            self.data,
            self.run,
            ImageStore(self.data / "images", time.time_ns),
            self.volumes,
            time.time_ns,
            **options,
        )
        await runtime.load()
        return runtime

    def leftovers(self) -> list[str]:
        """What the containers of this host still have in the kernel or on the disk."""
        directories = list((self.data / "containers").iterdir())
        found = [f"directory {path}" for path in directories]
        found += [f"mount {path}" for path in mount_points_below(self.data)]
        found += [f"process {pid}" for pid in processes_with_argument(str(self.run / "oci"))]
        found += [
            f"cgroup {path}"
            for path in Path("/sys/fs/cgroup").glob(f"*/weft/{os.environ[_PREFIX]}*")
        ]
        return found + [f"state {path}" for path in (self.run / "oci").iterdir()]


@pytest.fixture(scope="module")
def image_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = tmp_path_factory.mktemp("image") / "demo.tar"
    demo_image.build(archive)
    return archive


@pytest.fixture
def host(image_archive: Path) -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="weft-runtime-") as directory:
        host = Host(Path(directory).resolve())
        images = ImageStore(host.data / "images", time.time_ns)
        asyncio.run(images.load(read_chunks(image_archive)))
        try:
            yield host
            assert host.leftovers() == []
        finally:
            asyncio.run(clear(host))


async def clear(host: Host) -> None:
    runtime = await host.runtime()
    for container in runtime.containers():
        await runtime.remove(container.id)
    await runtime.close()


async def read_chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


def configure(
    *command: str,
    limits: Resources | None = None,
    namespace: str | None = None,
    host_name: str = "",
    **spec: Any,
) -> ContainerConfig:
    id = os.environ[_PREFIX] + os.urandom(28).hex()
    return ContainerConfig(
        id=ContainerId(id),
        name=f"test-{id[8:24]}",
        hostname=host_name or id[:12],
        namespace=namespace,
        spec=ContainerSpec(image=IMAGE, args=command, **spec),
        limits=limits or Resources(),
        hosts="127.0.0.1 localhost\n",
        resolv_conf="nameserver 127.0.0.11\n",
    )


async def started(runtime: ConmonRuntime, *command: str, **options: Any) -> ContainerId:
    config = configure(*command, **options)
    await runtime.create(config)
    await runtime.start(config.id)
    return config.id


async def finished(runtime: ConmonRuntime, *command: str, **options: Any) -> tuple[int, bytes]:
    """(exit code, what it wrote)."""
    id = await started(runtime, *command, **options)
    container = await runtime.wait(id)
    return container.exit_code, b"".join([line.data async for line in runtime.logs(id)])


async def appears(path: Path) -> None:
    async with asyncio.timeout(PATIENCE):
        while not path.exists():
            await asyncio.sleep(0.02)


async def read_all(streams: Attached) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while (packet := await streams.read())[0]:
        found[packet[0]] = found.get(packet[0], b"") + packet[1]
    return found


def with_runtime(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[[Host], None]:
    """Runs a coroutine with a runtime on a fresh host, and removes its containers."""

    def wrapper(host: Host) -> None:
        async def body() -> None:
            runtime = await host.runtime()
            try:
                async with asyncio.timeout(PATIENCE):
                    await test(runtime, host)
            finally:
                for container in runtime.containers():
                    await runtime.remove(container.id)
                await runtime.close()

        asyncio.run(body())

    wrapper.__name__ = test.__name__
    return wrapper
