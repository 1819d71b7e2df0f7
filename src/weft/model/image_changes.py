"""Changes to an image's configuration, in the words of a Dockerfile: `--change` of `docker import`
and `docker commit`. Only instructions that change the configuration exist here, as in Docker."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import msgspec

from weft.errors import InvalidArgument, Unsupported, clip
from weft.model.addresses import Protocol
from weft.model.container import ImageConfig
from weft.model.health import HealthCheck
from weft.model.meta import SECOND, Nanoseconds
from weft.model.numbers import decimal

_ITEMS_MAX = 1000
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(?:([0-9]{1,6})h)?(?:([0-9]{1,8})m)?(?:([0-9]{1,9}(?:\.[0-9]+)?)s)?")
_SHELL = ("/bin/sh", "-c")

_Change = Callable[[ImageConfig, str], ImageConfig]


def changed(config: ImageConfig, lines: Sequence[str]) -> ImageConfig:
    """Raises `InvalidArgument` with the line, `Unsupported` for ONBUILD."""
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        change = _CHANGES.get(word.upper())
        if word.upper() == "ONBUILD":
            raise Unsupported("ONBUILD is not supported by Weft, which builds no images")
        if change is None:
            raise InvalidArgument(f"{clip(word)} is not a valid change command")
        try:
            if not rest.strip():
                raise ValueError("it needs an argument")
            config = change(config, rest.strip())
        except ValueError as error:
            raise InvalidArgument(f"invalid change {clip(line)!r}: {error}") from error
    return config


def _list(text: str) -> tuple[str, ...] | None:
    """A list in JSON; None if it is none."""
    try:
        return msgspec.json.decode(text, type=tuple[str, ...])
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None


def _command(config: ImageConfig, text: str) -> tuple[str, ...]:
    found = _list(text)
    return (*(config.shell or _SHELL), text) if found is None else found


def _cmd(config: ImageConfig, text: str) -> ImageConfig:
    return msgspec.structs.replace(config, cmd=_command(config, text))


def _entrypoint(config: ImageConfig, text: str) -> ImageConfig:
    """It makes the image's command void, as in Docker."""
    return msgspec.structs.replace(config, entrypoint=_command(config, text), cmd=())


def _pairs(text: str) -> list[tuple[str, str]]:
    """`key=value key=value …`, or one `key value`."""
    words = shlex.split(text)
    if "=" not in words[0]:
        key, _, value = text.partition(" ")
        if not value:
            raise ValueError("it must have two arguments")
        return [(key, value.strip())]
    pairs = [word.partition("=") for word in words]
    if any(not key or not equals for key, equals, _ in pairs):
        raise ValueError("it must be KEY=VALUE")
    return [(key, value) for key, _, value in pairs]


def _env(config: ImageConfig, text: str) -> ImageConfig:
    given = dict(_pairs(text))
    kept = [entry for entry in config.env if entry.partition("=")[0] not in given]
    return msgspec.structs.replace(
        config, env=(*kept, *(f"{key}={value}" for key, value in given.items()))
    )


def _label(config: ImageConfig, text: str) -> ImageConfig:
    return msgspec.structs.replace(config, labels={**config.labels, **dict(_pairs(text))})


def _expose(config: ImageConfig, text: str) -> ImageConfig:
    ports = dict.fromkeys(config.exposed_ports)
    for word in shlex.split(text):
        match = _PORT.fullmatch(word)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if match is None or not 0 < first <= last <= 65535:
            raise ValueError(f"{clip(word)!r} is no port")
        protocol = cast(Protocol, (match[3] or "tcp").lower())
        ports.update(dict.fromkeys((port, protocol) for port in range(first, last + 1)))
        if len(ports) > 65535:
            raise ValueError("it has too many ports")
    return msgspec.structs.replace(config, exposed_ports=tuple(ports))


def _user(config: ImageConfig, text: str) -> ImageConfig:
    return msgspec.structs.replace(config, user=_one(text))


def _working_dir(config: ImageConfig, text: str) -> ImageConfig:
    """A relative path begins at the present directory."""
    path = _one(text)
    if not path.startswith("/"):
        path = f"{config.working_dir or ''}/{path}"
    return msgspec.structs.replace(config, working_dir=path)


def _volume(config: ImageConfig, text: str) -> ImageConfig:
    given = _list(text)
    paths = shlex.split(text) if given is None else given
    if not all(path.strip() for path in paths):
        raise ValueError("a volume must have a path")
    return msgspec.structs.replace(
        config, volumes=tuple(dict.fromkeys((*config.volumes, *paths)))[:_ITEMS_MAX]
    )


def _stop_signal(config: ImageConfig, text: str) -> ImageConfig:
    return msgspec.structs.replace(config, stop_signal=_one(text))


def _one(text: str) -> str:
    words = shlex.split(text)
    if len(words) != 1:
        raise ValueError("it must have one argument")
    return words[0]


def _health_check(config: ImageConfig, text: str) -> ImageConfig:
    """`NONE`, or `[--option=value …] CMD command`."""
    check = HealthCheck()
    while text.startswith("--"):
        option, _, text = text.partition(" ")
        name, _, value = option.removeprefix("--").partition("=")
        field = name.replace("-", "_")
        if name == "retries":
            if (retries := decimal(value, 2**31 - 1)) is None:
                raise ValueError(f"--retries is no number: {clip(value)!r}")
            check = msgspec.structs.replace(check, retries=retries)
        elif name in ("interval", "timeout", "start-period", "start-interval"):
            check = msgspec.structs.replace(check, **{field: _duration(option, value)})
        else:
            raise ValueError(f"there is no option {clip(option)}")
        text = text.strip()
    kind, _, rest = text.partition(" ")
    if kind.upper() == "NONE" and not rest:
        check = HealthCheck(test=("NONE",))
    elif kind.upper() == "CMD" and rest.strip():
        found = _list(rest)
        test = ("CMD-SHELL", rest.strip()) if found is None else ("CMD", *found)
        check = msgspec.structs.replace(check, test=test)
    else:
        raise ValueError("it must be NONE or CMD with a command")
    return msgspec.structs.replace(config, healthcheck=check)


def _duration(option: str, text: str) -> Nanoseconds:
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"{clip(option)}: it must be a duration such as 1m30s")
    hours, minutes, seconds = match.groups()
    return int((int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds or 0)) * SECOND)


_CHANGES: Mapping[str, _Change] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _health_check,
    "LABEL": _label,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _working_dir,
}
