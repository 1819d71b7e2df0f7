"""Versions of the Docker Engine API: what each adds, drops and says otherwise, in one place.

Weft speaks the newest. A request that names an older version is read and answered as Docker, Docker
Engine 28.5, does it for that version: `PARAMETERS` and `FIELDS` say what of a request did not exist
yet and is ignored; the functions below them change answers. What is not here is the same in all
versions. Routes are: Docker answers all of them in every version.

Source: moby 28.5.2, `docs/api/version-history.md` and where `api/server/router` compares versions.
"""

from collections.abc import Mapping
from typing import Any

from weft.api.schema.common import Json
from weft.errors import InvalidArgument, clip
from weft.model.numbers import decimal

Version = tuple[int, int]

MIN_VERSION = "1.24"
MAX_VERSION = "1.51"

MULTIPLEXED: Version = (1, 42)
"""Streams with frames have a media type of their own; before, both kinds had one."""

PARAMETERS: Mapping[str, Mapping[str, Version]] = {
    "/containers/{id}/restart": {"signal": (1, 42)},
    "/containers/{id}/stop": {"signal": (1, 42)},
    "/containers/{id}/wait": {"condition": (1, 30)},
    "/images/create": {"platform": (1, 32)},
    "/images/json": {"shared-size": (1, 42), "manifests": (1, 47)},
    "/images/load": {"platform": (1, 48)},
    "/images/{id}": {"platforms": (1, 50)},
    "/images/{id}/json": {"manifests": (1, 48), "platform": (1, 49)},
    "/services": {"status": (1, 41)},
}
"""Of a query, by route: from which version on they are read."""

_CONTAINER = "TaskTemplate.ContainerSpec"
FIELDS: Mapping[str, Mapping[str, Version]] = {
    "ServiceWire": {
        f"{_CONTAINER}.Sysctls": (1, 40),
        "TaskTemplate.Placement.MaxReplicas": (1, 40),
        f"{_CONTAINER}.CapabilityAdd": (1, 41),
        f"{_CONTAINER}.CapabilityDrop": (1, 41),
        f"{_CONTAINER}.Ulimits": (1, 41),
        "TaskTemplate.Resources.Limits.Pids": (1, 41),
        "Mode.ReplicatedJob": (1, 41),
        "Mode.GlobalJob": (1, 41),
        f"{_CONTAINER}.OomScoreAdj": (1, 46),
        f"{_CONTAINER}.Mounts[].TmpfsOptions.Options": (1, 46),
    },
    "InitWire": {"DefaultAddrPool": (1, 39), "SubnetSize": (1, 39), "DataPathPort": (1, 40)},
    "NetworkWire": {"EnableIPv4": (1, 48)},
    "ExecWire": {"ConsoleSize": (1, 42)},
    "ExecStartWire": {"ConsoleSize": (1, 42)},
}
"""Of a body, by what it is decoded into and by path: from which version on they are read. (Fields
of `Privileges` and `Healthcheck` have versions too; Weft refuses these two whole.)"""


def version_number(text: str) -> Version:
    """Raises `InvalidArgument`."""
    major, _, minor = text.partition(".")
    numbers = decimal(major), decimal(minor)
    if numbers[0] is None or numbers[1] is None:
        raise InvalidArgument(f"invalid API version: {clip(text)!r}")
    return numbers[0], numbers[1]


def check_served(text: str) -> None:
    """Raises `InvalidArgument`, in Docker's words, for a version that is not served."""
    version = version_number(text)
    if version < version_number(MIN_VERSION):
        raise InvalidArgument(
            f"client version {text} is too old. Minimum supported API version is {MIN_VERSION}, "
            "please upgrade your client to a newer version"
        )
    if version > version_number(MAX_VERSION):
        raise InvalidArgument(
            f"client version {text} is too new. Maximum supported API version is {MAX_VERSION}"
        )


def reads(route: str, parameter: str, version: Version) -> bool:
    """Whether a query's parameter exists in this version."""
    return version >= PARAMETERS.get(route, {}).get(parameter, (0, 0))


def later_fields(wire: str, version: Version) -> frozenset[str]:
    """Paths of the fields of a body that this version does not have yet."""
    return frozenset(path for path, since in FIELDS.get(wire, {}).items() if version < since)


# --- answers


def container_answer(body: Json, version: Version) -> Json:
    """Up to 1.44 the aliases of a container on a network include its short id and its host name, on
    networks that users make."""
    if version >= (1, 45):
        return body
    settings = body["NetworkSettings"]
    own = (body["Id"][:12], body["Config"]["Hostname"])
    networks = {
        name: place | {"Aliases": list(dict.fromkeys((*(place["Aliases"] or ()), *own)))}
        for name, place in settings["Networks"].items()
        if name not in ("bridge", "host", "none", "default")
    }
    return body | {"NetworkSettings": settings | {"Networks": settings["Networks"] | networks}}


_NO_LONGER_IMAGES: Mapping[str, Any] = {
    "AttachStderr": False, "AttachStdin": False, "AttachStdout": False, "Domainname": "", "Hostname": "", "Image": "",
    "OpenStdin": False, "StdinOnce": False, "Tty": False,
}  # fmt: skip
"""What an image's configuration was said to have up to 1.49, though it is the container's."""


def image_answer(body: Json, version: Version) -> Json:
    if version < (1, 50):
        body = body | {"Config": {**_NO_LONGER_IMAGES, **body["Config"]}}
    return body | {"VirtualSize": body["Size"]} if version < (1, 44) else body


def image_summary_answer(body: Json, version: Version) -> Json:
    """1.43: no names for what has none; 1.44: no second size; 1.51: how many containers use it."""
    if version < (1, 43) and not body["RepoTags"] and not body["RepoDigests"]:
        body = body | {"RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"]}
    if version < (1, 44):
        body = body | {"VirtualSize": body["Size"]}
    return body if version >= (1, 51) else body | {"Containers": -1}


def info_answer(body: Json, version: Version) -> Json:
    if version < (1, 25):
        body = body | {
            "SecurityOptions": [_security_name(option) for option in body["SecurityOptions"]]
        }
    if version < (1, 47):
        nothing = {
            "AllowNondistributableArtifactsCIDRs": None,
            "AllowNondistributableArtifactsHostnames": None,
        }
        body = body | {"RegistryConfig": body["RegistryConfig"] | nothing}
    if version < (1, 49):
        commits = {name: body[name] | {"Expected": body[name]["ID"]} for name in COMMITS}
        body = {key: value for key, value in body.items() if key != "FirewallBackend"} | commits
    return (
        body if version >= (1, 50) else body | {"BridgeNfIptables": True, "BridgeNfIp6tables": True}
    )


COMMITS = ("ContainerdCommit", "RuncCommit", "InitCommit")


def _security_name(option: str) -> str:
    """`seccomp` of `name=seccomp,profile=builtin`: options had no more than a name once."""
    return option.partition(",")[0].removeprefix("name=")
