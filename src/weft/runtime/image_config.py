"""The OCI image configuration, decoded strictly: whatever tool made it, only a configuration that
can be stored, shown and run becomes an `Image`. Null stands for an absent list or map, as Go's
encoder writes it."""

import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Annotated, Any, TypeVar, cast

import msgspec
from msgspec import Meta

from weft.model.addresses import Port, Protocol
from weft.model.container import HistoryStep, Image, ImageConfig, is_digest
from weft.model.health import HealthCheck
from weft.model.meta import Nanoseconds
from weft.runtime.logs import parse_timestamp
from weft.runtime.malformed import Malformed, shown

# These types have no patterns: msgspec 0.22 (its issue 717) crashes when the interpreter exits if
# several structs have patterns.

T = TypeVar("T")

LAYERS_MAX = 125
"""Docker's limit: overlayfs might not mount a longer chain."""
_LAST_MOMENT: Nanoseconds = 2**63 - 1
_ITEMS_MAX = 10_000
Text = Annotated[str, Meta(max_length=131_071)]
"""The limit of a process's argument or environment variable (MAX_ARG_STRLEN in execve(2))."""
_Word = Annotated[str, Meta(max_length=255)]
_Texts = Annotated[list[Text], Meta(max_length=_ITEMS_MAX)]
_Names = Annotated[dict[Text, dict[str, Any] | None], Meta(max_length=_ITEMS_MAX)]
"""A set, in the notation of Go's encoder."""
_PORT = re.compile(r"([0-9]{1,5})(?:/(tcp|udp|sctp))?", re.IGNORECASE | re.ASCII)
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


_Duration = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _HealthCheck(msgspec.Struct, frozen=True, rename="pascal"):
    """Docker's addition to the OCI configuration."""

    test: _Texts | None = None
    interval: _Duration | None = None
    timeout: _Duration | None = None
    start_period: _Duration | None = None
    start_interval: _Duration | None = None
    retries: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None

    def __post_init__(self) -> None:
        if any("\0" in text for text in self.test or ()):
            raise ValueError("Healthcheck.Test has a NUL in it")


class _Run(msgspec.Struct, frozen=True, rename="pascal"):
    entrypoint: _Texts | Text | None = None
    """One string stands for a list of one string, as in `cmd`."""
    cmd: _Texts | Text | None = None
    env: _Texts | None = None
    working_dir: Text | None = None
    user: _Word | None = None
    labels: Annotated[dict[Text, Text], Meta(max_length=_ITEMS_MAX)] | None = None
    exposed_ports: _Names | None = None
    volumes: _Names | None = None
    stop_signal: _Word | None = None
    healthcheck: _HealthCheck | None = None
    shell: _Texts | None = None

    def __post_init__(self) -> None:
        """Refuses NUL, which no argument, variable or name in the kernel can contain. Raises
        `ValueError`."""
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            if field.name != "healthcheck" and any("\0" in text for text in _texts(value)):
                raise ValueError(f"{field.encode_name} has a NUL in it")


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: Annotated[list[str], Meta(max_length=LAYERS_MAX)] | None = None

    def __post_init__(self) -> None:
        for digest in self.diff_ids or ():
            if not is_digest(digest):
                raise ValueError(f"diff_ids has an entry that is no digest: {shown(digest)}")


class _Document(msgspec.Struct, frozen=True):
    rootfs: _RootFs
    architecture: _Word | None = None
    os: _Word | None = None
    created: _Word | None = None
    author: Text | None = None
    config: _Run | None = None


class _Step(msgspec.Struct, frozen=True):
    created: _Word | None = None
    created_by: str | None = None
    comment: str | None = None
    empty_layer: bool = False


class _Made(msgspec.Struct, frozen=True):
    history: Annotated[list[_Step], Meta(max_length=_ITEMS_MAX)] | None = None


def decode_document(name: str, raw: bytes, type_: type[T]) -> T:
    """Decodes JSON into a `type_`. Raises `Malformed` with the path of the field."""
    try:
        return msgspec.json.decode(raw, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"{shown(name)}: {error}") from error
    except RecursionError as error:
        raise Malformed(f"{shown(name)}: it is nested too deep") from error


def decode_image(name: str, raw: bytes) -> Image:
    """An image without names and size. `name`: the document's name, for messages. Raises
    `Malformed`."""
    document = decode_document(name, raw, _Document)
    image = Image(
        id=f"sha256:{sha256(raw).hexdigest()}",
        created=_moment(name, document.created or ""),
        architecture=document.architecture or "amd64",
        os=document.os or "linux",
        author=document.author or "",
        config=_decode_run(name, document.config or _Run()),
        layers=tuple(document.rootfs.diff_ids or ()),
    )
    checked = msgspec.convert(msgspec.to_builtins(image), Image)
    return msgspec.structs.replace(checked, document=raw)


def decode_history(name: str, raw: bytes) -> list[HistoryStep]:
    """How the image was made, oldest step first. Raises `Malformed`."""
    return [
        HistoryStep(
            created=_moment(name, step.created or ""),
            created_by=step.created_by or "",
            comment=step.comment or "",
            has_layer=not step.empty_layer,
        )
        for step in decode_document(name, raw, _Made).history or ()
    ]


def _decode_run(name: str, run: _Run) -> ImageConfig:
    return ImageConfig(
        entrypoint=_command(run.entrypoint),
        cmd=_command(run.cmd),
        env=tuple(run.env or ()),
        working_dir=run.working_dir or "",
        user=run.user or "",
        labels=run.labels or {},
        exposed_ports=tuple(_port(name, text) for text in run.exposed_ports or {}),
        volumes=tuple(run.volumes or ()),
        stop_signal=run.stop_signal or "",
        healthcheck=_health_check(run.healthcheck),
        shell=tuple(run.shell or ()),
    )


def _health_check(wire: _HealthCheck | None) -> HealthCheck | None:
    if wire is None:
        return None
    return HealthCheck(
        test=tuple(wire.test or ()),
        interval=wire.interval or 0,
        timeout=wire.timeout or 0,
        start_period=wire.start_period or 0,
        start_interval=wire.start_interval or 0,
        retries=wire.retries or 0,
    )


def _texts(value: str | list[str] | dict[str, Any] | None) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        yield from (text for text in value.values() if isinstance(text, str))
    else:
        yield from value or ()


def _command(value: list[str] | str | None) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(value or ())


def _port(name: str, text: str) -> tuple[Port, Protocol]:
    match = _PORT.fullmatch(text)
    if match is None or int(match[1]) > 65535:
        raise Malformed(f"{shown(name)}: config.ExposedPorts has no port {shown(text)}")
    return int(match[1]), cast(Protocol, (match[2] or "tcp").lower())


def _moment(name: str, text: str) -> Nanoseconds:
    """Go's zero time and all times before 1970 count as unset."""
    try:
        if text and not _MOMENT.fullmatch(text):
            raise ValueError
        return min(max(0, parse_timestamp(text.upper())), _LAST_MOMENT) if text else 0
    except (ValueError, OverflowError) as error:
        raise Malformed(f"{shown(name)}: created is no moment: {shown(text)}") from error
