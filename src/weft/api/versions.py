"""Versions of the Docker Engine API: everything that a version adds, drops or changes, in one
place.

Weft speaks the newest version. For a request that names an older version, Weft reads and answers as
Docker Engine 28.5 does for that version. `PARAMETERS` and `FIELDS` list the parts of requests that
did not exist yet and are ignored; the functions below them change answers. Everything else is the
same in all versions. Routes are, too: Docker serves all routes in every version.

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
"""Since this version framed streams have a media type of their own; before, both kinds shared
one."""

PARAMETERS: Mapping[str, Mapping[str, Version]] = {
    "/containers/create": {"platform": (1, 41)},
    "/containers/{id}/restart": {"signal": (1, 42)},
    "/containers/{id}/stop": {"signal": (1, 42)},
    "/containers/{id}/wait": {"condition": (1, 30)},
    "/images/create": {"platform": (1, 32)},
    "/images/json": {"shared-size": (1, 42), "manifests": (1, 47)},
    "/images/get": {"platform": (1, 48)},
    "/images/load": {"platform": (1, 48)},
    "/images/{id}": {"platforms": (1, 50)},
    "/images/{id}/get": {"platform": (1, 48)},
    "/images/{id}/history": {"platform": (1, 48)},
    "/images/{id}/push": {"platform": (1, 46)},
    "/images/{id}/json": {"manifests": (1, 48), "platform": (1, 49)},
    "/services": {"status": (1, 41)},
}
"""Query parameters, by route, with the first version that reads them."""

_CONTAINER = "TaskTemplate.ContainerSpec"
_MOUNT = "HostConfig.Mounts[]"
_ENDPOINT = "NetworkingConfig.EndpointsConfig{}"
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
        f"{_CONTAINER}.Healthcheck.StartInterval": (1, 44),
        f"{_CONTAINER}.OomScoreAdj": (1, 46),
        f"{_CONTAINER}.Mounts[].TmpfsOptions.Options": (1, 46),
    },
    "NewContainerWire": {
        "HostConfig.AutoRemove": (1, 25),
        f"{_MOUNT}.BindOptions.NonRecursive": (1, 40),
        "HostConfig.KernelMemoryTCP": (1, 40),
        f"{_MOUNT}.BindOptions.CreateMountpoint": (1, 42),
        "HostConfig.ConsoleSize": (1, 42),
        "HostConfig.Annotations": (1, 43),
        "Healthcheck.StartInterval": (1, 44),
        f"{_ENDPOINT}.MacAddress": (1, 44),
        f"{_ENDPOINT}.GwPriority": (1, 48),
    },
    "UpdateContainerWire": {"PidsLimit": (1, 40)},
    "ConnectWire": {"EndpointConfig.GwPriority": (1, 48)},
    "InitWire": {"DefaultAddrPool": (1, 39), "SubnetSize": (1, 39), "DataPathPort": (1, 40)},
    "NetworkWire": {"EnableIPv4": (1, 48)},
    "ExecWire": {"ConsoleSize": (1, 42)},
    "ExecStartWire": {"ConsoleSize": (1, 42)},
}
"""Body fields, by wire struct and path, with the first version that reads them: `[]` in a path
stands for any item of a list, `{}` for any value of a map. (Fields of
`Privileges` have versions too; Weft refuses it as a whole.)"""


def version_number(text: str) -> Version:
    """Raises `InvalidArgument`."""
    major, _, minor = text.partition(".")
    numbers = decimal(major), decimal(minor)
    if numbers[0] is None or numbers[1] is None:
        raise InvalidArgument(f"invalid API version: {clip(text)!r}")
    return numbers[0], numbers[1]


def check_served(text: str) -> None:
    """Raises `InvalidArgument`, with Docker's text, for a version that is not served."""
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
    """Whether a query parameter exists in this version."""
    return version >= PARAMETERS.get(route, {}).get(parameter, (0, 0))


def later_fields(wire: str, version: Version) -> frozenset[str]:
    """Paths of the body fields that this version does not have yet."""
    return frozenset(path for path, since in FIELDS.get(wire, {}).items() if version < since)


# --- answers


def container_answer(body: Json, version: Version) -> Json:
    """Up to 1.44 a container's aliases on a user-made network include its short id and its host
    name."""
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
"""Fields of an image's configuration up to 1.49, although they describe a container."""


def image_answer(body: Json, version: Version) -> Json:
    if version < (1, 50):
        body = body | {"Config": {**_NO_LONGER_IMAGES, **body["Config"]}}
    return body | {"VirtualSize": body["Size"]} if version < (1, 44) else body


def image_summary_answer(body: Json, version: Version) -> Json:
    """1.43 drops the placeholder for missing names; 1.44 drops the second size; 1.51 adds the
    number of containers."""
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
    """`seccomp` for `name=seccomp,profile=builtin`: options used to have only a name."""
    return option.partition(",")[0].removeprefix("name=")
