"""Archives of images, made by hand, and a store to load them into."""

import asyncio
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

from weft.runtime.images import ImageStore

PATIENCE = 20.0
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def tar_of(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in entries:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def file(
    name: str,
    content: bytes = b"",
    mode: int = 0o644,
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.mtime = kind, mode, link, 1_600_000_000
    return info, content


def directory(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return file(name, mode=mode, kind=tarfile.DIRTYPE)


def docker_archive(
    tag: str, *layers: bytes, compress: bool = False, lie: bool = False, stored: bytes | None = None
) -> bytes:
    """`stored`: what is in the archive for its only layer."""
    digests = [f"sha256:{hashlib.sha256(layer + b'x' * lie).hexdigest()}" for layer in layers]
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "created": "2024-01-02T03:04:05Z", "rootfs": {"type": "layers", "diff_ids": digests},
        "config": {"Cmd": ["/x"], "Env": ["A=b"], "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "User": "7", "StopSignal": "SIGINT"},
    }).encode()  # fmt: skip
    contents = [gzip.compress(layer, 1) if compress else stored or layer for layer in layers]
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = json.dumps([{"Config": "c.json", "RepoTags": [tag], "Layers": names}]).encode()
    return tar_of(
        file("manifest.json", manifest), file("c.json", config), *map(file, names, contents)
    )


def load(store: ImageStore, data: bytes) -> list[str]:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    return asyncio.run(store.load(chunks()))


def layer_of(store: ImageStore, tag: str, number: int = 0) -> Path:
    return store.layer_directories(store.find(tag))[number]


# taking in: all or nothing


def left_over(tmp_path: Path) -> list[Path]:
    return [path for name in ("tmp", "layers") for path in (tmp_path / "images" / name).glob("*")]
