"""Files of containers that are plain processes: each container has a directory of this machine, in
which the real code looks and copies."""

import io
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from weft.errors import NotFound
from weft.model.container import ContainerState
from weft.model.ids import ContainerId
from weft.model.inside import Change, CpuUse, InterfaceUse, MemoryUse, PathStat, Usage
from weft.runtime.container_root import ContainerRoot, wanted
from weft.runtime.copy_in import unpack_into
from weft.runtime.copy_out import archive, export
from weft.runtime.fake_processes import ProcessRuntime
from weft.runtime.inside import not_copied
from weft.runtime.room import Room
from weft.runtime.upper_layer import layer


class FakeInside:
    """`runtime.base.Inside`."""

    def __init__(self, runtime: ProcessRuntime) -> None:
        self._runtime = runtime
        self._directory = ""
        self.samples = 0

    def close(self) -> None:
        if self._directory:
            shutil.rmtree(self._directory)

    def root(self, id: ContainerId | str) -> Path:
        """The container's root."""
        self._directory = self._directory or tempfile.mkdtemp(prefix="weft-inside-")
        path = Path(self._directory) / id
        path.mkdir(exist_ok=True)
        return path

    def _open(self, id: ContainerId) -> ContainerRoot:
        self._runtime.get(id)
        return ContainerRoot.of_directory(self.root(id))

    async def stat(self, id: ContainerId, path: str) -> PathStat:
        root = self._open(id)
        try:
            return root.stat(wanted(path))
        except FileNotFoundError as error:
            raise NotFound(
                f"Could not find the file {path} in container {self._runtime.get(id).config.name}"
            ) from error
        except OSError as error:
            raise not_copied(path, self._runtime.get(id).config.name, error) from error
        finally:
            root.close()

    async def read(
        self, id: ContainerId, path: str
    ) -> tuple[PathStat, AsyncGenerator[bytes, None]]:
        async def pieces() -> AsyncGenerator[bytes, None]:
            root = self._open(id)
            try:
                for piece in archive(root, wanted(path)):
                    yield piece
            finally:
                root.close()

        return await self.stat(id, path), pieces()

    async def write(
        self,
        id: ContainerId,
        path: str,
        content: AsyncIterator[bytes],
        *,
        keep_kinds: bool,
        owned: bool,
    ) -> None:
        await self.stat(id, path)
        tar = io.BytesIO(b"".join([chunk async for chunk in content]))
        root = self._open(id)
        try:
            unpack_into(root, wanted(path), tar, Room(self.root(id)), keep_kinds=keep_kinds)
        finally:
            root.close()

    async def export(self, id: ContainerId) -> AsyncGenerator[bytes, None]:
        root = self._open(id)
        try:
            for piece in export(root):
                yield piece
        finally:
            root.close()

    async def layer(self, id: ContainerId) -> AsyncGenerator[bytes, None]:
        """All files of the container's directory: it has no image below."""
        self._runtime.get(id)
        for piece in layer(self.root(id)):
            yield piece

    async def changes(self, id: ContainerId) -> list[Change]:
        self._runtime.get(id)
        return [Change("/tmp", "modified"), Change("/tmp/x", "added"), Change("/bin", "deleted")]

    async def sizes(self, id: ContainerId) -> tuple[int, int]:
        self._runtime.get(id)
        return 12, 12 + 12_345_678

    async def usage(self, id: ContainerId) -> Usage | None:
        """Half of one of two processors, all the time."""
        if self._runtime.get(id).state is not ContainerState.RUNNING:
            return None
        self.samples += 1
        return Usage(
            time=1_700_000_000 * 10**9 + self.samples * 10**9,
            cpu=CpuUse(total=self.samples * 5 * 10**8, system=self.samples * 2 * 10**9, cpus=2),
            memory=MemoryUse(usage=48 << 20, limit=64 << 20, details={"inactive_file": 16 << 20}),
            processes=3,
            interfaces={
                "eth0": InterfaceUse(
                    rx_bytes=1000, rx_packets=10, rx_errors=0, rx_dropped=0,
                    tx_bytes=2000, tx_packets=20, tx_errors=0, tx_dropped=0,
                )
            },
        )  # fmt: skip
