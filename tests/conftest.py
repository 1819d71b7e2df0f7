"""For all tests."""

import signal

from hypothesis import settings

signal.signal(signal.SIGTERM, signal.default_int_handler)  # as a person's Ctrl-C: what the tests made is taken away

settings.register_profile("weft", deadline=None)  # how long an example takes says nothing on a machine that is busy
settings.load_profile("weft")
