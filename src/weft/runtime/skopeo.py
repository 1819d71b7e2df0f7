"""Images from registries, through skopeo, with errors in Docker's words."""

import asyncio
import hashlib
import re
from pathlib import Path

from weft.errors import NotFound, OperationFailed, WeftError
from weft.model.references import qualified
from weft.runtime.archive import native_architecture
from weft.runtime.room import Room
from weft.system.process import run

_LOOK = 0.5
"""Seconds between two checks of the free space."""
_REASON_MAX = 500
"""Characters of a message from a registry."""
_STEP = re.compile(
    r"(?:Error parsing image name|reading manifest|initializing source|determining manifest"
    r' MIME type for)[^:"]*(?:"[^"]*"|docker://\S+): |pinging container registry \S+: '
)
"""What skopeo says of one of its own steps, in its own notation of names, before the cause."""
_LOOPBACK = re.compile(r"(localhost|127(\.\d+){3})(:\d+)?/")


class Registry:
    def __init__(self, skopeo: str = "skopeo") -> None:
        self._skopeo = skopeo

    async def digest(self, name: str, tag: str, digest: str) -> str:
        """The digest of the manifest, or of the list of manifests, that the registry has under this
        name. Raises `NotFound`, `OperationFailed`."""
        source = _source(name, tag, digest)
        output = await run(
            [
                self._skopeo,
                "--insecure-policy",
                "inspect",
                "--raw",
                *_tls("--tls-verify", name),
                source,
            ]
        )
        if output.code != 0:
            raise translate_error(output.text, name, tag or digest)
        return digest or f"sha256:{hashlib.sha256(output.raw).hexdigest()}"

    async def fetch(self, name: str, digest: str, directory: Path, room: Room) -> None:
        """Writes manifest, configuration and layers of the variant for this machine, as the
        registry sends them; skopeo checks the digests. Raises `NotFound`, `OperationFailed`."""
        source = _source(name, "", digest)
        options = ["--quiet", *_tls("--src-tls-verify", name)]
        copy = [self._skopeo, "--insecure-policy", "copy", *options, source, f"dir:{directory}"]
        copying = asyncio.ensure_future(run(copy))
        try:
            while not (await asyncio.wait((copying,), timeout=_LOOK))[0]:
                room.look()
        except OperationFailed as error:
            raise OperationFailed(f"cannot pull {name}@{digest}: {error}") from error
        finally:
            copying.cancel()  # ends skopeo if it still runs
            await asyncio.wait((copying,))
        output = copying.result()
        if output.code != 0:
            raise translate_error(output.text, name, digest)


def _source(name: str, tag: str, digest: str) -> str:
    return f"docker://{qualified(name)}" + (f"@{digest}" if digest else f":{tag}")


def _tls(option: str, name: str) -> list[str]:
    """Registries on this machine may speak plain HTTP, as with Docker."""
    return [f"{option}=false"] if _LOOPBACK.match(qualified(name)) else []


def translate_error(text: str, name: str, version: str) -> WeftError:
    separator = "@" if version.startswith("sha256:") else ":"
    if "manifest unknown" in text:
        return NotFound(
            f"manifest for {name}{separator}{version} not found: manifest unknown: manifest unknown"
        )
    if re.search(
        r"denied|unauthorized|authentication required|name unknown|repository name not known", text
    ):
        return NotFound(
            f"pull access denied for {name}, repository does not exist or may require 'docker"
            " login': denied: requested access to the resource is denied"
        )
    if "no image found in" in text:
        return NotFound(
            f"no matching manifest for linux/{native_architecture()} in the manifest list entries"
            f" of {name}{separator}{version}"
        )
    line = text.rpartition("\n")[2]
    reason = (line.partition('msg="')[2] or line).rstrip('"').replace('\\"', '"')
    while (step := _STEP.match(reason)) is not None:
        reason = reason[step.end() :]
    reason = reason[:_REASON_MAX]
    reason = "".join(letter if letter.isprintable() else "?" for letter in reason)
    return OperationFailed(f"cannot pull {name}{separator}{version}: {reason}")
