"""Names of signals, beside those that Python knows."""

import signal

import pytest

from weft.errors import InvalidArgument
from weft.model.signals import signal_name, signal_number


@pytest.mark.parametrize("known", list(signal.Signals), ids=lambda known: known.name)
def test_names_are_those_of_the_kernel(known: signal.Signals) -> None:
    assert signal_number(known.name) == known
    assert signal_number(known.name.removeprefix("SIG").lower()) == known
    assert signal_number(signal_name(known)) == known


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SIGRTMIN+3", 37), ("rtmin+15", 49), ("SIGRTMAX-14", 50), ("SIGRTMAX", 64), ("SIGPOLL", 29),
        ("CLD", 17), ("9", 9), ("33", 33), ("64", 64),
    ],
)  # fmt: skip
def test_others(text: str, number: int) -> None:
    """The first is how a container with systemd is asked to stop."""
    assert signal_number(text) == number


def test_each_number_has_one_name() -> None:
    names = [signal_name(number) for number in range(1, 65)]
    assert len(set(names)) == 64
    assert [name for name in names if not name.startswith("SIG")] == ["32", "33"]


@pytest.mark.parametrize(
    "text", ["", "0", "65", "-1", "SIGFOO", "SIG", "RTMIN+16", "SIGSIGTERM", "٣", "9" * 5000]
)
def test_what_is_none_is_named(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid signal: "):
        signal_number(text)
