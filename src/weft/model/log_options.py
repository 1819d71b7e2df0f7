"""The log drivers of containers and their options (`--log-driver`, `--log-opt`), as Docker has
them. Pure.

The drivers `json-file` and `local` differ in their defaults only: both keep the lines in files that
the runtime reads back. Texts of errors are Docker's, with the option's name where Docker leaves it
out.
"""

import math
import re
from collections.abc import Mapping

import msgspec

from weft.errors import InvalidArgument, clip
from weft.model.numbers import decimal

DEFAULT = "json-file"
UNREADABLE = "configured logging driver does not support reading"
"""Docker's answer to a request for lines that are not kept here."""
DETAILS = ("labels", "labels-regex", "env", "env-regex", "tag")
"""Options that choose what is said about the container beside each line."""
_FILE_OPTIONS = ("max-size", "max-file", "compress", *DETAILS)
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "json-file": _FILE_OPTIONS,
    "local": _FILE_OPTIONS,
    "journald": DETAILS,
    "syslog": ("syslog-address", "syslog-facility", "syslog-format", "tag"),
    "none": (),
}
"""The options of each driver, apart from `mode`, which all have."""
DOCKERS = ("awslogs", "etwlogs", "fluentd", "gcplogs", "gelf", "splunk")
"""Drivers that Docker has and Weft has not."""
DOCKERS = ("awslogs", "etwlogs", "fluentd", "gcplogs", "gelf", "splunk")
"""Drivers that Docker has and Weft has not."""
READABLE = ("json-file", "local")
UNSUPPORTED = {
    "syslog": (
        "syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify",
        "labels", "labels-regex", "env", "env-regex",
    ),
}  # fmt: skip
"""Options that Docker's driver has and Weft's has not. Docker accepts labels and variables for
syslog, but no message shows them."""

MOST_BYTES = 64 << 20
"""Size of a log file if the user gives none: no container may fill the disk."""
_LOCAL_BYTES, _LOCAL_FILES = 20_000_000, 5
"""Docker's defaults for the driver `local`; there they are multiples of 1024, but sizes that users
give are decimal in both."""
MOST_FILES = 1000
_WAITING_BYTES, _WAITING_FILES = 8 << 20, 4
"""What may wait on disk for the drivers that pass lines on."""
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?([a-zA-Z]*)")
_UNITS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")


class FilePolicy(msgspec.Struct, frozen=True):
    """How much of a container's output is kept on disk."""

    max_size: int = MOST_BYTES
    """Bytes; a file that has reached them is followed by a new one."""
    max_file: int = 1
    """Number of files kept, the one being written among them."""
    compress: bool = False
    """Whether the files before the one being written are compressed."""


def file_policy(driver: str, options: Mapping[str, str]) -> FilePolicy:
    """Raises `InvalidArgument`. The files of other drivers are bounded too."""
    if driver in ("journald", "syslog"):
        return FilePolicy(_WAITING_BYTES, _WAITING_FILES)
    if driver == "local":
        return _local_policy(options)
    size = options.get("max-size")
    policy = FilePolicy(
        MOST_BYTES if size is None else _size(size),
        _files(options.get("max-file", "1")),
        _flag("compress", options.get("compress", "false")),
    )
    if policy.compress and (policy.max_file < 2 or size is None):
        raise InvalidArgument(
            "compress cannot be true when max-file is less than 2 or max-size is not set"
        )
    return policy


def _local_policy(options: Mapping[str, str]) -> FilePolicy:
    size, files = options.get("max-size"), options.get("max-file")
    policy = FilePolicy(
        _LOCAL_BYTES if size is None else _size(size),
        _LOCAL_FILES if files is None else _files(files),
        _flag("compress", options.get("compress", "true")),
    )
    if policy.compress and policy.max_file < 2:
        raise InvalidArgument("compression cannot be enabled when max file count is 1")
    return policy


def _size(text: str) -> int:
    """Bytes of `10m`, `1.5 GB`, `512`: decimal units, as everywhere in Docker's log options."""
    found = _SIZE.fullmatch(text)
    cause = f"invalid value for max-size: {clip(text)}: "
    if found is None:
        raise InvalidArgument(f"{cause}invalid size: '{clip(text)}'")
    suffix = found[2].lower()
    if suffix[:1] not in _UNITS or suffix[1:] not in ("", "b", "ib") or suffix in ("bb", "bib"):
        raise InvalidArgument(f"{cause}invalid suffix: '{clip(found[2])}'")
    size = float(found[1]) * 1000.0 ** _UNITS[suffix[:1]]
    if not math.isfinite(size) or not 1 <= size < 2**63:
        raise InvalidArgument(f"{cause}max-size must be a positive number")
    return int(size)


def _files(text: str) -> int:
    number = decimal(text)
    cause = f"invalid value for max-file: {clip(text)}: "
    if number is None:
        raise InvalidArgument(f"{cause}not a number")
    if number < 1:
        raise InvalidArgument("max-file cannot be less than 1")
    if number > MOST_FILES:
        raise InvalidArgument(f"{cause}max-file cannot be more than {MOST_FILES}")
    return number


def _flag(name: str, text: str) -> bool:
    if text not in (*_TRUE, *_FALSE):
        raise InvalidArgument(f"invalid boolean value for {name}: {clip(text)}")
    return text in _TRUE
