"""Images from registries, through skopeo, with errors in Docker's words."""

import asyncio
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from weft.errors import NotFound, OperationFailed, Unauthorized, WeftError
from weft.model.references import qualified
from weft.model.registry import HUB, USUAL, Distribution, RegistryAuth, RegistrySettings
from weft.runtime.archive import native_architecture
from weft.runtime.room import Room
from weft.system.process import Output, run

_LOOK = 0.5
"""Seconds between two checks of the free space."""
_REASON_MAX = 500
"""Characters of a message from a registry."""
_STEP = re.compile(
    r"(?:Error parsing image name|reading manifest|initializing source|determining manifest"
    r' MIME type for)[^:"]*(?:"[^"]*"|docker://\S+): |pinging container registry \S+: '
)
"""What skopeo says of one of its own steps, in its own notation of names, before the cause."""
_DENIED = re.compile(
    r"denied|unauthorized|authentication required|name unknown|repository name not known"
)
_AUTH_FD, _CONF_FD = 3, 4
"""Descriptors of skopeo's files in memory."""


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest that a registry has now."""

    digest: str
    size: int
    """Bytes of the manifest."""


class Registry:
    """The registries, as this host talks to them. Credentials and settings reach skopeo in files in
    memory: nothing of the user that the daemon runs as, and of skopeo's own configuration, counts.
    """

    def __init__(self, settings: RegistrySettings = USUAL, skopeo: str = "skopeo") -> None:
        self._settings = settings
        self._skopeo = skopeo

    async def digest(
        self, name: str, tag: str, digest: str, auth: RegistryAuth | None = None
    ) -> str:
        """The digest of the manifest, or of the list of manifests, that the registry has under this
        name. Raises `NotFound`, `OperationFailed`."""
        raw = await self._inspect(name, tag, digest, auth, "--raw")
        return digest or digest_of(raw)

    async def distribution(
        self, name: str, tag: str, digest: str, auth: RegistryAuth | None
    ) -> Distribution:
        """As `digest`, with all that the registry says of it."""
        raw = await self._inspect(name, tag, digest, auth, "--raw")
        config = b""
        if "manifests" not in _document(raw, name):
            config = await self._inspect(
                name, "", digest or digest_of(raw), auth, "--raw", "--config"
            )
        return distribution_of(name, raw, config)

    async def _inspect(
        self, name: str, tag: str, digest: str, auth: RegistryAuth | None, *options: str
    ) -> bytes:
        tls = self._tls("--tls-verify", name)
        output = await self._run(name, auth, "inspect", *options, *tls, _source(name, tag, digest))
        if output.code != 0:
            raise translate_error(output.text, name, tag or digest, auth)
        return output.raw

    async def fetch(
        self, name: str, digest: str, directory: Path, room: Room, auth: RegistryAuth | None = None
    ) -> None:
        """Writes manifest, configuration and layers of the variant for this machine, as the
        registry sends them; skopeo checks the digests. Raises `NotFound`, `OperationFailed`."""
        options = ["--quiet", *self._tls("--src-tls-verify", name)]
        copy = ["copy", *options, _source(name, "", digest), f"dir:{directory}"]
        copying = asyncio.ensure_future(self._run(name, auth, *copy))
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
            raise translate_error(output.text, name, digest, auth)

    async def send(
        self, name: str, tag: str, directory: Path, auth: RegistryAuth | None = None
    ) -> Sent:
        """Sends the image in `directory`; skopeo compresses its layers, and does not say which the
        registry had already. Raises `Unauthorized`,
        `OperationFailed`."""
        told = directory / "pushed-digest"
        options = ["--quiet", "--digestfile", str(told), *self._tls("--dest-tls-verify", name)]
        output = await self._run(
            name, auth, "copy", *options, f"dir:{directory}", _source(name, tag, "")
        )
        if output.code != 0:
            raise translate_push_error(output.text, name, tag, auth)
        digest = told.read_text().strip()
        manifest = await self._inspect(name, "", digest, auth, "--raw")
        return Sent(digest=digest, size=len(manifest))

    async def _run(self, name: str, auth: RegistryAuth | None, command: str, *rest: str) -> Output:
        registry = qualified(name).partition("/")[0]
        with (
            _in_memory("registry-auth", auth_file(registry, auth)) as credentials,
            _in_memory("registries", registries_file(self._settings.mirrors)) as registries,
        ):
            argv = [self._skopeo, "--insecure-policy", "--registries-conf", _file(_CONF_FD)]
            argv += [command, "--authfile", _file(_AUTH_FD), *rest]
            return await run(argv, fds={_AUTH_FD: credentials, _CONF_FD: registries})

    def _tls(self, option: str, name: str) -> list[str]:
        registry = qualified(name).partition("/")[0]
        return [f"{option}=false"] if self._settings.is_insecure(registry) else []


@contextmanager
def _in_memory(name: str, content: bytes) -> Iterator[int]:
    """The descriptor of a file without a place in any file system."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        os.write(fd, content)
        yield fd
    finally:
        os.close(fd)


def _file(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def auth_file(registry: str, auth: RegistryAuth | None) -> bytes:
    """See containers-auth.json(5). Without credentials it has none, and skopeo looks nowhere
    else."""
    if auth is None or auth.is_empty:
        return b"{}"
    entry = {"auth": auth.basic}
    if auth.identity_token:
        entry["identitytoken"] = auth.identity_token
    return msgspec.json.encode({"auths": {registry: entry}})


def registries_file(mirrors: Sequence[str]) -> bytes:
    """See containers-registries.conf(5). Only Docker Hub has mirrors, as with Docker."""
    lines = ["unqualified-search-registries = []"]
    if mirrors:
        lines += ["[[registry]]", f'location = "{HUB}"']
    for url in mirrors:
        scheme, _, rest = url.partition("://")
        lines += ["[[registry.mirror]]", f'location = "{rest.rstrip("/")}"']
        lines += [f"insecure = {'true' if scheme == 'http' else 'false'}"]
    return "\n".join([*lines, ""]).encode()


def digest_of(manifest: bytes) -> str:
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def distribution_of(name: str, raw: bytes, config: bytes) -> Distribution:
    """`config`: the image's configuration, unless `raw` is a list of manifests. Raises
    `OperationFailed` for what is neither."""
    document = _document(raw, name)
    entries = document.get("manifests")
    platforms = [
        entry.get("platform")
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict)
    ]
    found = [_document(config, name)] if config else platforms
    index = "application/vnd.oci.image.index.v1+json"
    image = "application/vnd.oci.image.manifest.v1+json"
    return Distribution(
        media_type=str(document.get("mediaType") or (image if config else index)),
        digest=digest_of(raw),
        size=len(raw),
        platforms=tuple(
            (str(one.get("architecture", "")), str(one.get("os", "")), str(one.get("variant", "")))
            for one in found
            if isinstance(one, dict)
        ),
    )


def _document(raw: bytes, name: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(raw, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OperationFailed(f"cannot read the manifest of {name}: {error}") from error


def _source(name: str, tag: str, digest: str) -> str:
    return f"docker://{qualified(name)}" + (f"@{digest}" if digest else f":{tag}")


def translate_error(
    text: str, name: str, version: str, auth: RegistryAuth | None = None
) -> WeftError:
    """`auth`: what the registry was shown. It may have repeated that."""
    separator = "@" if version.startswith("sha256:") else ":"
    if "manifest unknown" in text:
        return NotFound(
            f"manifest for {name}{separator}{version} not found: manifest unknown: manifest unknown"
        )
    if _DENIED.search(text):
        return NotFound(
            f"pull access denied for {name}, repository does not exist or may require 'docker"
            " login': denied: requested access to the resource is denied"
        )
    if "no image found in" in text:
        return NotFound(
            f"no matching manifest for linux/{native_architecture()} in the manifest list entries"
            f" of {name}{separator}{version}"
        )
    return OperationFailed(f"cannot pull {name}{separator}{version}: {_reason(text, auth)}")


def translate_push_error(
    text: str, name: str, tag: str, auth: RegistryAuth | None = None
) -> WeftError:
    """`auth`: what the registry was shown. It may have repeated that."""
    if _DENIED.search(text):
        return Unauthorized("denied: requested access to the resource is denied")
    return OperationFailed(f"cannot push {name}:{tag}: {_reason(text, auth)}")


def _reason(text: str, auth: RegistryAuth | None) -> str:
    """The cause, of what skopeo has printed."""
    line = text.rpartition("\n")[2]
    reason = (line.partition('msg="')[2] or line).rstrip('"').replace('\\"', '"')
    while (step := _STEP.match(reason)) is not None:
        reason = reason[step.end() :]
    reason = (auth.hidden_in(reason) if auth is not None else reason)[:_REASON_MAX]
    return "".join(letter if letter.isprintable() else "?" for letter in reason)
