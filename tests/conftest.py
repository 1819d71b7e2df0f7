"""For all tests."""

from hypothesis import settings

settings.register_profile("weft", deadline=None)  # how long an example takes says nothing on a machine that is busy
settings.load_profile("weft")
