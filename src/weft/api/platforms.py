"""Platforms that a request asks for. A host has its own platform's variant of an image, and no
other."""

import msgspec

from weft.api.call import Call
from weft.errors import InvalidArgument, NotFound, Unsupported, clip
from weft.model.container import Image

_NAMES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
"""OCI's names of machines."""


class Platform(msgspec.Struct, frozen=True):
    """A platform in OCI's terms."""

    architecture: str = ""
    os: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def check_platform(image: Image, reference: str, text: str) -> None:
    """`text`: a platform as JSON. Raises `NotFound` if the image is not for that platform."""
    wanted = _decode(text)
    if (wanted.os, wanted.architecture) != (image.os, image.architecture):
        raise NotFound(
            f"image with reference {reference} was found but does not provide the specified"
            f" platform ({clip(str(wanted))})"
        )


def check_native(call: Call) -> None:
    """The platform that the parameter `platform` names, as JSON or as `os/architecture`, must be
    this host's. Raises `Unsupported`."""
    machine = call.node.info.architecture
    native = _NAMES.get(machine, machine)
    for text in call.request.query.getall("platform", []) if call.query("platform") else ():
        if text.startswith("{"):
            wanted = _decode(text)
            is_native = (wanted.os, wanted.architecture) == ("linux", native)
        else:
            parts = text.lower().split("/")
            names = {"linux": "linux", native: native, machine: native}
            given = [names.get(part, "") for part in parts[:2]]
            is_native = given in ([native], ["linux"], ["linux", native])
        if not is_native:
            raise Unsupported(
                f"choosing another platform (platform={clip(text)}) than this host's,"
                f" linux/{native}, is not supported by Weft"
            )


def _decode(text: str) -> Platform:
    try:
        return msgspec.json.decode(text, type=Platform)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidArgument(f"failed to parse platform: {clip(str(error))}") from error
