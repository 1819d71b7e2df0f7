"""The cause in an error's message."""

import errno
import socket
import ssl

import pytest

from weft.errors import NotFound, cause_of


def test_the_systems_words_without_number_and_path() -> None:
    assert (
        cause_of(FileNotFoundError(errno.ENOENT, "No such file or directory", "/a"))
        == "No such file or directory"
    )


def test_an_error_of_the_system_that_has_no_words_of_it() -> None:
    with pytest.raises(OSError) as raised:
        socket.if_nametoindex("weft-is-none0")
    assert cause_of(raised.value) == "no interface with this name"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (TimeoutError(), "TimeoutError"), (OSError(), "OSError"), (NotFound("no such thing"), "no such thing"),
        (ssl.SSLError(1, "[SSL] PEM lib"), "[SSL] PEM lib"), (OSError(errno.EIO, ""), "[Errno 5] "),
    ],
)  # fmt: skip
def test_every_error_has_a_cause(error: Exception, cause: str) -> None:
    assert cause_of(error) == cause
