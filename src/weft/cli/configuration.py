"""The daemon's configuration: reads the file and the options, checks them, and makes
`DaemonOptions` of them.

Options override the file, key by key. The file is TOML, and its keys are the names of the options;
an unknown key is an error:

    data-root = "/var/lib/weft"
    log-level = "info"
    labels = ["zone=a"]
    node-generic-resources = ["GPU=UUID1", "GPU=UUID2", "licences=3"]
    hosts = ["tcp://0.0.0.0:2376"]
    tlsverify = true
    tlscacert = "/etc/weft/tls/ca.pem"
    tlscert = "/etc/weft/tls/cert.pem"
    tlskey = "/etc/weft/tls/key.pem"
    insecure-registries = ["registry.example:5000", "192.0.2.0/24"]
    registry-mirrors = ["https://mirror.example"]
    metrics-address = "0.0.0.0:9323"
    metrics-cacert = "/etc/weft/metrics/ca.pem"
    metrics-cert = "/etc/weft/metrics/cert.pem"
    metrics-key = "/etc/weft/metrics/key.pem"
    etcd-election-timeout = "5s"
    store = "etcd://192.0.2.21:2379,192.0.2.22:2379"
    store-cacert = "/etc/weft/store/ca.pem"
    store-cert = "/etc/weft/store/cert.pem"
    store-key = "/etc/weft/store/key.pem"
"""

import os
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path

from weft.api.tls import server_context
from weft.daemon.options import DaemonOptions, MetricsAddress, TcpHost
from weft.errors import InvalidArgument
from weft.model.generic import GenericResource, resources_from
from weft.model.numbers import decimal
from weft.model.registry import RegistrySettings
from weft.store.etcd.base import Pace
from weft.store.etcd.external import ExternalEtcd
from weft.store.etcd.rows import PREFIX
from weft.system.tls_files import TlsFiles

DEFAULT_CONFIG = Path("/etc/weft/config.toml")
TLS_FILES = ("tlscacert", "tlscert", "tlskey")
METRICS_FILES = ("metrics-cacert", "metrics-cert", "metrics-key")
STORE_FILES = ("store-cacert", "store-cert", "store-key")
DEFAULTS: dict[str, object] = {
    "data-root": "/var/lib/weft",
    "run-dir": "/run/weft",
    "netns-dir": "/run/docker/netns",
    "socket": "/var/run/docker.sock",
    "log-level": "info",
    "log-format": "text",
    "labels": [],
    "node-generic-resources": [],
    "hosts": [],
    "tlsverify": False,
    **dict.fromkeys(TLS_FILES, ""),
    "insecure-registries": [],
    "registry-mirrors": [],
    "metrics-address": "",
    **dict.fromkeys(METRICS_FILES, ""),
    "etcd-election-timeout": "1s",
    "store": "",
    "store-prefix": PREFIX,
    **dict.fromkeys(STORE_FILES, ""),
}
PATHS = ("data-root", "run-dir", "netns-dir", "socket")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
TLS_PORT, STORE_PORT, METRICS_PORT = 2376, 2379, 9323
"""The last one as in Docker's documentation of `metrics-addr`."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
TYPES: dict[type, str] = {str: "a string", bool: "true or false", list: "a list of strings"}
_REGISTRY = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9a-fA-F:]+\](:\d{1,5})?")
_DURATION = re.compile(r"([0-9]{1,6})(ms|s)")
_MIRROR_PATH = re.compile(r"[A-Za-z0-9._/-]*")

Values = Mapping[str, object]


def read_config(path: Path | None) -> dict[str, object]:
    """The file's content; empty if `path` is None and the default file does not exist. Raises
    `InvalidArgument`."""
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
            raise InvalidArgument(
                f"cannot read configuration {file}: unknown key {key!r}; known are"
                f" {', '.join(DEFAULTS)}"
            )
        wanted = type(DEFAULTS[key])
        if not isinstance(value, wanted) or (
            isinstance(value, list) and not all(isinstance(v, str) for v in value)
        ):
            raise InvalidArgument(
                f"cannot read configuration {file}: {key} must be {TYPES[wanted]}, not {value!r}"
            )
    return content


def make_options(given: Values) -> DaemonOptions:
    """Raises `InvalidArgument` for values and TLS files that cannot be used."""
    values = {**DEFAULTS, **given}
    for key in PATHS:
        _absolute(key, _text(values, key))
    if values["log-level"] not in LOG_LEVELS:
        raise InvalidArgument(
            f"cannot use log-level {values['log-level']!r}: it must be one of"
            f" {', '.join(LOG_LEVELS)}"
        )
    if values["log-format"] not in LOG_FORMATS:
        raise InvalidArgument(
            f"cannot use log-format {values['log-format']!r}: it must be one of"
            f" {', '.join(LOG_FORMATS)}"
        )
    hosts = _words(values, "hosts")
    return DaemonOptions(
        data_root=Path(_text(values, "data-root")),
        run_dir=Path(_text(values, "run-dir")),
        netns_dir=Path(_text(values, "netns-dir")),
        socket=Path(_text(values, "socket")),
        log_level=_text(values, "log-level"),
        log_format="json" if values["log-format"] == "json" else "text",
        labels=_labels(_words(values, "labels")),
        generic=_generic(_words(values, "node-generic-resources")),
        sockets=tuple(
            _absolute("hosts", h.removeprefix("unix://")) for h in hosts if h.startswith("unix://")
        ),
        tcp=tuple(_tcp(h) for h in hosts if not h.startswith("unix://")),
        tls=_tls(values, next((h for h in hosts if h.startswith("tcp://")), "")),
        metrics=_metrics(values),
        pace=_pace(values),
        store=_store(values),
        registries=_registries(values),
    )


def _registries(values: Values) -> RegistrySettings:
    insecure = tuple(_words(values, "insecure-registries"))
    for text in insecure:
        if not (_is_subnet(text) if "/" in text else _REGISTRY.fullmatch(text)):
            raise InvalidArgument(
                f"cannot use insecure-registries {text!r}: it must be HOST, HOST:PORT or a subnet"
            )
    mirrors = tuple(_words(values, "registry-mirrors"))
    for text in mirrors:
        scheme, separator, rest = text.partition("://")
        host, _, path = rest.partition("/")
        is_plain = _REGISTRY.fullmatch(host) and _MIRROR_PATH.fullmatch(path)
        if not (separator and scheme in ("http", "https") and is_plain):
            raise InvalidArgument(
                f"cannot use registry-mirrors {text!r}: it must be http://HOST[:PORT][/PATH] or"
                " https://HOST[:PORT][/PATH]"
            )
    return RegistrySettings(insecure=insecure, mirrors=mirrors)


def _is_subnet(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def _tls(values: Values, host: str) -> TlsFiles | None:
    """The TLS files for the TCP hosts; None if there are no TCP hosts. Files that are named are
    loaded as a check even then."""
    wanted = values["tlsverify"]
    missing = [key for key in TLS_FILES if not _text(values, key)]
    if host and not wanted:
        raise InvalidArgument(
            f"cannot serve {host}: tlsverify is not set, and the API on TCP needs mutual TLS"
        )
    if (host or wanted) and missing:
        raise InvalidArgument(
            f"cannot serve {host or 'hosts'} with tlsverify: {', '.join(missing)} not set"
        )
    if missing:
        return None
    ca, certificate, key = (_absolute(name, _text(values, name)) for name in TLS_FILES)
    files = TlsFiles(ca=ca, certificate=certificate, key=key)
    server_context(files)
    return files if host else None


def _metrics(values: Values) -> MetricsAddress | None:
    """The address for Prometheus; None if there is none. What a cluster runs is nobody else's
    affair, so there is none without mutual TLS."""
    text = _text(values, "metrics-address")
    missing = [key for key in METRICS_FILES if not _text(values, key)]
    if not text:
        if len(missing) < len(METRICS_FILES):
            given = ", ".join(key for key in METRICS_FILES if key not in missing)
            raise InvalidArgument(f"cannot use {given}: metrics-address is not set")
        return None
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    number = decimal(port, 2**16 - 1) if colon else METRICS_PORT
    if not number or "/" in text:
        raise InvalidArgument(f"cannot use metrics-address {text!r}: it must be HOST:PORT")
    if missing:
        raise InvalidArgument(
            f"cannot use metrics-address {text!r}: it needs mutual TLS, and {', '.join(missing)}"
            " not set"
        )
    ca, certificate, key = (_absolute(name, _text(values, name)) for name in METRICS_FILES)
    files = TlsFiles(ca=ca, certificate=certificate, key=key)
    server_context(files)
    address = (host if colon else text).strip("[]") or "0.0.0.0"
    return MetricsAddress(TcpHost(address, number), files)


def _store(values: Values) -> ExternalEtcd | None:
    """The external etcd; None if there is none. Its TLS files are loaded as a check. Without files,
    only an etcd on this host may be used, so that nobody else can listen, or answer in etcd's
    place."""
    url, prefix = _text(values, "store"), _text(values, "store-prefix")
    given = [key for key in STORE_FILES if _text(values, key)]
    if not url:
        if given or prefix != PREFIX:
            raise InvalidArgument(
                f"cannot use {', '.join(given) or 'store-prefix'}: store is not set"
            )
        return None
    if not url.startswith("etcd://"):
        raise InvalidArgument(f"cannot use store {url!r}: it must be etcd://HOST:PORT,HOST:PORT")
    if not (
        prefix.startswith("/")
        and prefix.endswith("/")
        and prefix.isascii()
        and prefix.isprintable()
    ):
        raise InvalidArgument(
            f"cannot use store-prefix {prefix!r}: it must begin and end with a slash"
        )
    found = [
        _address("store", url, text, STORE_PORT)
        for text in url.removeprefix("etcd://").rstrip("/").split(",")
    ]
    if any(not host for host, _ in found):
        raise InvalidArgument(f"cannot use store {url!r}: it must be etcd://HOST:PORT,HOST:PORT")
    outside = [host for host, _ in found if host not in LOOPBACK]
    missing = [key for key in STORE_FILES if key not in given]
    if missing and (given or outside):
        raise InvalidArgument(
            f"cannot use store {url!r}: it needs mutual TLS, and {', '.join(missing)} not set"
        )
    files = None
    if given:
        ca, certificate, key = (_absolute(name, _text(values, name)) for name in STORE_FILES)
        files = TlsFiles(ca=ca, certificate=certificate, key=key)
    endpoints = tuple(
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in found
    )
    store = ExternalEtcd(endpoints=endpoints, files=files, prefix=prefix, pace=_pace(values))
    store.context()
    return store


def _pace(values: Values) -> Pace:
    """etcd itself takes 50 s at most; below a second its leases are longer than an election."""
    text = _text(values, "etcd-election-timeout")
    found = _DURATION.fullmatch(text)
    seconds = int(found[1]) / (1000 if found[2] == "ms" else 1) if found else 0
    if not 1 <= seconds <= 50:
        raise InvalidArgument(
            f"cannot use etcd-election-timeout {text!r}: it must be a time from 1s to 50s, such as"
            ' "5s" or "2500ms"'
        )
    return Pace(seconds)


def _tcp(text: str) -> TcpHost:
    rest = text.removeprefix("tcp://")
    if rest == text:
        raise InvalidArgument(f"cannot use host {text!r}: it must begin with unix:// or tcp://")
    address, port = _address("host", text, rest, TLS_PORT)
    return TcpHost(address or "0.0.0.0", port)


def _address(key: str, value: str, text: str, default: int) -> tuple[str, int]:
    """Address and port. `text` is `HOST:PORT`, `[HOST]:PORT`, or a host alone; it is the whole or a
    part of `value`."""
    address, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        address, port = text, str(default)
    number = decimal(port, 2**16 - 1)
    if not number or "/" in address:
        raise InvalidArgument(
            f"cannot use {key} {value!r}: it must be {value.partition('://')[0]}://ADDRESS:PORT"
        )
    return address.strip("[]"), number


def _labels(words: list[str]) -> dict[str, str]:
    """Labels as in Docker: `key=value`, or a key alone; a key with two values is an error."""
    labels: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition("=")
        if not key or any(c.isspace() for c in key):
            raise InvalidArgument(f"cannot use label {word!r}: it must be KEY=VALUE")
        if labels.setdefault(key, value) != value:
            raise InvalidArgument(f"cannot use label {word!r}: {key} is {labels[key]!r} already")
    return labels


def _generic(words: list[str]) -> tuple[GenericResource, ...]:
    try:
        return resources_from(words)
    except InvalidArgument as error:
        raise InvalidArgument(f"cannot use node-generic-resources: {error}") from None


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
