"""Images in memory, as the API sees them: a demo image that runs a shell, and a registry that has
nearly every image."""

import hashlib
import time
from collections.abc import AsyncIterator

import msgspec

from weft.errors import NotFound, Unauthorized
from weft.model import references
from weft.model.container import Image, ImageConfig
from weft.model.registry import Distribution, RegistryAuth

IMAGE = "zaggash/demo-webapp:latest"
PRIVATE = "registry.test/"
CREDENTIALS = RegistryAuth(username="me", password="p4ssw0rd-marker")
SCRIPT = "echo listening; echo ready >&2; exec sleep 3600"


def hex_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def demo_image() -> Image:
    config = ImageConfig(
        cmd=("sh", "-c", SCRIPT), env=("COLOUR=blue",), exposed_ports=((80, "tcp"),)
    )
    return Image(
        id=f"sha256:{hex_of('demo')}",
        tags=(IMAGE,),
        created=time.time_ns(),
        size=12_345_678,
        config=config,
    )


class FakeImages:
    """`runtime.base.Images`. A registry that has every image but those whose name begins with
    `missing`; for those that begin with `PRIVATE` it wants `CREDENTIALS`."""

    def __init__(self) -> None:
        self.images = [demo_image()]

    def all(self) -> list[Image]:
        return list(self.images)

    def find(self, reference: str) -> Image:
        for image in self.images:
            if image.id == reference or image.id.removeprefix("sha256:").startswith(reference):
                return image
        name, tag, _ = references.parse(reference)
        found = next((image for image in self.images if f"{name}:{tag}" in image.tags), None)
        if found is None:
            raise NotFound(f"No such image: {reference}")
        return found

    async def layer_sizes(self) -> dict[str, int]:
        """Each image has one layer, which is its own."""
        return {layer: image.size for image in self.images for layer in image.layers}

    async def log_in(self, server: str, auth: RegistryAuth) -> str:
        if auth != CREDENTIALS:
            raise Unauthorized(
                f'Get "https://{server}/v2/": unauthorized: incorrect username or password'
            )
        return ""

    async def distribution(self, reference: str, auth: RegistryAuth | None = None) -> Distribution:
        name, tag, _ = self._checked(reference, auth)
        return Distribution(
            media_type="application/vnd.oci.image.index.v1+json",
            digest=f"sha256:{hex_of(f'{name}:{tag}')}",
            size=1234,
            platforms=(("amd64", "linux", ""), ("arm64", "linux", "v8")),
        )

    def _checked(self, reference: str, auth: RegistryAuth | None) -> tuple[str, str, str]:
        name, tag, digest = references.parse(reference)
        if name.startswith("missing") or (name.startswith(PRIVATE) and auth != CREDENTIALS):
            raise NotFound(
                f"pull access denied for {name}, repository does not exist or may require 'docker"
                " login'"
            )
        return name, tag, digest

    async def pull(self, reference: str, auth: RegistryAuth | None = None) -> AsyncIterator[str]:
        name, tag, _ = self._checked(reference, auth)
        yield f"Pulling from {name}"
        self._add(f"{name}:{tag}")
        yield f"Status: Downloaded newer image for {name}:{tag}"

    async def load(self, archive: AsyncIterator[bytes]) -> list[str]:
        size = 0
        async for chunk in archive:
            size += len(chunk)
        self._add("loaded:latest", size)
        return ["loaded:latest"]

    def _add(self, tag: str, size: int = 1000) -> None:
        image = Image(id=f"sha256:{hex_of(tag)}", tags=(tag,), created=time.time_ns(), size=size)
        self.images[:] = [*(old for old in self.images if old.id != image.id), image]

    async def tag(self, reference: str, new: str) -> None:
        image = self.find(reference)
        name, tag, _ = references.parse(new)
        self._replace(image, (*image.tags, f"{name}:{tag}"))

    async def remove(self, reference: str, force: bool = False) -> list[tuple[str, str]]:
        image = self.find(reference)
        name, tag, _ = references.parse(reference)
        kept = (
            tuple(old for old in image.tags if old != f"{name}:{tag}")
            if not image.id.endswith(reference)
            else ()
        )
        self._replace(image, kept)
        return [("Untagged", f"{name}:{tag}"), *([] if kept else [("Deleted", image.id)])]

    def _replace(self, image: Image, tags: tuple[str, ...]) -> None:
        place = self.images.index(image)
        self.images[place : place + 1] = [msgspec.structs.replace(image, tags=tags)] if tags else []
