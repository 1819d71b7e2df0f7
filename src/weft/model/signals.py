"""The signals of Linux, by the names that users write."""

from weft.errors import InvalidArgument, clip
from weft.model.numbers import decimal

_REALTIME = range(34, 65)
"""glibc keeps 32 and 33 for itself."""
_MOST_FROM_MIN = 15
_IN_ORDER = (
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU",
    "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
)  # fmt: skip
"""From 1 on."""
_NUMBERS = {name: number for number, name in enumerate(_IN_ORDER, start=1)}
_ALIASES = {"IOT": 6, "CLD": 17, "POLL": 29}
_NAMED_FROM_MIN = {
    f"RTMIN+{step}" if step else "RTMIN": _REALTIME[step] for step in range(_MOST_FROM_MIN + 1)
}
_NAMED_FROM_MAX = {
    f"RTMAX-{step}" if step else "RTMAX": _REALTIME[-1 - step] for step in range(_MOST_FROM_MIN)
}
_ALL = _NUMBERS | _ALIASES | _NAMED_FROM_MIN | _NAMED_FROM_MAX
_NAMES = {
    number: f"SIG{name}" for name, number in (_NAMED_FROM_MAX | _NAMED_FROM_MIN | _NUMBERS).items()
}


def signal_number(text: str) -> int:
    """The number for `SIGTERM`, `TERM`, `term`, `15` or `SIGRTMIN+3`. Raises `InvalidArgument`."""
    number = decimal(text, _REALTIME[-1]) or _ALL.get(text.upper().removeprefix("SIG"))
    if not number:
        raise InvalidArgument(f"invalid signal: {clip(text)}")
    return number


def signal_name(number: int) -> str:
    """`SIGTERM` for 15. A number without a name is its own."""
    return _NAMES.get(number, str(number))
