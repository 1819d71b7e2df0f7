"""The daemon's configuration: the file and the options, checked, as `DaemonOptions`.

Options win over the file, key by key. The file is TOML, its keys are the names of the options; one that is not known is an error:

    data-root = "/var/lib/weft"
    log-level = "info"
    labels = ["zone=a"]
    hosts = ["tcp://0.0.0.0:2376"]
    tlsverify = true
    tlscacert = "/etc/weft/tls/ca.pem"
    tlscert = "/etc/weft/tls/cert.pem"
    tlskey = "/etc/weft/tls/key.pem"
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from weft.api.tls import TlsFiles, load
from weft.errors import InvalidArgument
from weft.node import DaemonOptions, TcpHost

DEFAULT_CONFIG = Path("/etc/weft/config.toml")
TLS_FILES = ("tlscacert", "tlscert", "tlskey")
DEFAULTS: dict[str, object] = {
    "data-root": "/var/lib/weft",
    "run-dir": "/run/weft",
    "netns-dir": "/run/docker/netns",
    "socket": "/var/run/docker.sock",
    "log-level": "info",
    "log-format": "text",
    "labels": [],
    "hosts": [],
    "tlsverify": False,
    **dict.fromkeys(TLS_FILES, ""),
}
PATHS = ("data-root", "run-dir", "netns-dir", "socket")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
TLS_PORT = 2376
TYPES: dict[type, str] = {str: "a string", bool: "true or false", list: "a list of strings"}

Values = Mapping[str, object]


def read_config(path: Path | None) -> dict[str, object]:
    """What the file says; nothing if none is named and the default is not there. Raises `InvalidArgument`."""
    file = path or DEFAULT_CONFIG
    try:
        content = tomllib.loads(file.read_text())
    except FileNotFoundError as error:
        if path is None:
            return {}
        raise InvalidArgument(f"cannot read configuration {file}: no such file") from error
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"cannot read configuration {file}: {error}") from error
    for key, value in content.items():
        if key not in DEFAULTS:
            raise InvalidArgument(f"cannot read configuration {file}: unknown key {key!r}; known are {', '.join(DEFAULTS)}")
        wanted = type(DEFAULTS[key])
        if not isinstance(value, wanted) or (isinstance(value, list) and not all(isinstance(v, str) for v in value)):
            raise InvalidArgument(f"cannot read configuration {file}: {key} must be {TYPES[wanted]}, not {value!r}")
    return content


def make_options(given: Values) -> DaemonOptions:
    """Raises `InvalidArgument` for a value that cannot be used, and for files of TLS that are of no use."""
    values = {**DEFAULTS, **given}
    for key in PATHS:
        _absolute(key, _text(values, key))
    if values["log-level"] not in LOG_LEVELS:
        raise InvalidArgument(f"cannot use log-level {values['log-level']!r}: it must be one of {', '.join(LOG_LEVELS)}")
    if values["log-format"] not in LOG_FORMATS:
        raise InvalidArgument(f"cannot use log-format {values['log-format']!r}: it must be one of {', '.join(LOG_FORMATS)}")
    hosts = _words(values, "hosts")
    return DaemonOptions(
        data_root=Path(_text(values, "data-root")),
        run_dir=Path(_text(values, "run-dir")),
        netns_dir=Path(_text(values, "netns-dir")),
        socket=Path(_text(values, "socket")),
        log_level=_text(values, "log-level"),
        log_format="json" if values["log-format"] == "json" else "text",
        labels=_labels(_words(values, "labels")),
        sockets=tuple(_absolute("hosts", h.removeprefix("unix://")) for h in hosts if h.startswith("unix://")),
        tcp=tuple(_tcp(h) for h in hosts if not h.startswith("unix://")),
        tls=_tls(values, next((h for h in hosts if h.startswith("tcp://")), "")),
    )


def _tls(values: Values, host: str) -> TlsFiles | None:
    """What the TCP hosts are served with; None if there are none. Files that are named are tried even then."""
    wanted = values["tlsverify"]
    missing = [key for key in TLS_FILES if not _text(values, key)]
    if host and not wanted:
        raise InvalidArgument(f"cannot serve {host}: tlsverify is not set, and the API on TCP needs mutual TLS")
    if (host or wanted) and missing:
        raise InvalidArgument(f"cannot serve {host or 'hosts'} with tlsverify: {', '.join(missing)} not set")
    if missing:
        return None
    ca, certificate, key = (_absolute(name, _text(values, name)) for name in TLS_FILES)
    files = TlsFiles(ca=ca, certificate=certificate, key=key)
    load(files)
    return files if host else None


def _tcp(text: str) -> TcpHost:
    rest = text.removeprefix("tcp://")
    if rest == text:
        raise InvalidArgument(f"cannot use host {text!r}: it must begin with unix:// or tcp://")
    address, colon, port = rest.rpartition(":") if not rest.endswith("]") else (rest, "", "")
    if not colon:
        address, port = rest, str(TLS_PORT)
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 2**16) or "/" in address:
        raise InvalidArgument(f"cannot use host {text!r}: it must be tcp://ADDRESS:PORT")
    return TcpHost(address.strip("[]") or "0.0.0.0", int(port))


def _labels(words: list[str]) -> dict[str, str]:
    """As the original's: `key=value`, or a key alone; a key that has two values is an error."""
    labels: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition("=")
        if not key or any(c.isspace() for c in key):
            raise InvalidArgument(f"cannot use label {word!r}: it must be KEY=VALUE")
        if labels.setdefault(key, value) != value:
            raise InvalidArgument(f"cannot use label {word!r}: {key} is {labels[key]!r} already")
    return labels


def _absolute(key: str, text: str) -> Path:
    if not os.path.isabs(text):
        raise InvalidArgument(f"cannot use {key} {text!r}: it must be an absolute path")
    return Path(text)


def _text(values: Values, key: str) -> str:
    return str(values[key])


def _words(values: Values, key: str) -> list[str]:
    words = values[key]
    assert isinstance(words, list | tuple)
    return list(words)
