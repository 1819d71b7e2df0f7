"""Options of a place on a network (`DriverOpts`)."""

from collections.abc import Mapping

from weft.errors import Unsupported, clip

DOCKERS = "com.docker.network."
"""Begins the options that drivers of Docker know."""


def options_from(options: Mapping[str, str], where: str) -> tuple[tuple[str, str], ...]:
    """Names and values in order. Docker keeps and shows options that its drivers do not know, and
    they have no effect; so does Weft. `where`: the field of the request. Raises `Unsupported` for
    one that would have an effect."""
    for name in options:
        if name.startswith(DOCKERS):
            raise Unsupported(f"{where}.DriverOpts: {clip(name)} is not supported by Weft")
    return tuple(sorted(options.items()))
