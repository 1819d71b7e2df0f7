"""For all tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

signal.signal(
    signal.SIGTERM, signal.default_int_handler
)  # as a person's Ctrl-C: what the tests made is taken away

_ROOT = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH"))))
"""Programs that tests start find what tests have in common as well."""

settings.register_profile(
    "weft", deadline=None
)  # how long an example takes says nothing on a machine that is busy
settings.load_profile("weft")


@pytest.fixture(params=["0022", "0077", "0000"])
def any_umask(request: pytest.FixtureRequest) -> Iterator[str]:
    """This process under each umask that a service manager or a shell may give it."""
    before = os.umask(int(request.param, 8))
    yield request.param
    os.umask(before)
