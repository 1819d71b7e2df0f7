"""Nothing is accepted and then ignored: each field of the API's requests changes what is answered
about the object, or is refused by its name.

`recorded/field-types.json` has every field of the bodies of those requests in version 1.51 of the
API (moby, api/docs/v1.51.yaml), with its type and its values: `[]` stands for an item of a list,
`{}` for a value of a map.
"""

import asyncio
import base64
import copy
import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_images import IMAGE
from tests.unit.api.served import Get, serving

FIELDS: Mapping[str, Mapping[str, str]] = json.loads(
    (Path(__file__).parent / "recorded" / "field-types.json").read_text()
)
PAGE = (Path(__file__).parents[3] / "docs" / "compatibility.md").read_text()
CONTAINER = "TaskTemplate.ContainerSpec"
MOUNT, PRIVILEGES = f"{CONTAINER}.Mounts[]", f"{CONTAINER}.Privileges"
NAMED = "TaskTemplate.Resources.Reservations.GenericResources[].NamedResourceSpec"
SECOND = 10**9
PROFILE = base64.b64encode(b'{"defaultAction":"SCMP_ACT_ALLOW"}').decode()
DATA = base64.b64encode(b"data").decode()

BODIES: Mapping[str, dict[str, Any]] = {
    "POST /services/create": {
        "Mode": {"Replicated": {"Replicas": 0}},
        "TaskTemplate": {"ContainerSpec": {"Image": IMAGE}},
    },
    "POST /networks/create": {"Driver": "overlay"},
    "POST /volumes/create": {},
    "POST /secrets/create": {"Data": DATA},
    "POST /configs/create": {"Data": DATA},
    "POST /swarm/update": {},
    "POST /nodes/{id}/update": {"Role": "manager", "Availability": "active"},
}
"""The least that each request must have."""

BESIDE: tuple[tuple[str, dict[str, Any]], ...] = (
    (f"{MOUNT}.TmpfsOptions", {MOUNT: {"Type": "tmpfs", "Target": "/x"}}),
    (f"{MOUNT}.BindOptions", {MOUNT: {"Type": "bind", "Source": "/etc", "Target": "/x"}}),
    (f"{MOUNT}.BindOptions.ReadOnly", {
        MOUNT: {"Type": "bind", "Source": "/etc", "Target": "/x", "ReadOnly": True},
        f"{MOUNT}.BindOptions.Propagation": "rprivate",
    }),
    (MOUNT, {MOUNT: {"Type": "volume", "Source": "volume1", "Target": "/x"}}),
    (f"{CONTAINER}.Secrets[]", {
        f"{CONTAINER}.Secrets[]": {"SecretID": "@secret", "SecretName": "secret"},
        f"{CONTAINER}.Secrets[].File": {"Name": "n", "UID": "0", "GID": "0", "Mode": 292},
    }),
    (f"{CONTAINER}.Configs[]", {
        f"{CONTAINER}.Configs[]": {"ConfigID": "@config", "ConfigName": "config"},
        f"{CONTAINER}.Configs[].File": {"Name": "n", "UID": "0", "GID": "0", "Mode": 292},
    }),
    (f"{CONTAINER}.HealthCheck", {f"{CONTAINER}.HealthCheck.Test": ["CMD", "true"]}),
    (f"{CONTAINER}.Ulimits[]", {f"{CONTAINER}.Ulimits[]": {"Name": "core", "Soft": 1, "Hard": 1}}),
    ("TaskTemplate.Networks[]", {"TaskTemplate.Networks[].Target": "net"}),
    ("Networks[]", {"Networks[].Target": "net"}),
    ("TaskTemplate.LogDriver.Options", {"TaskTemplate.LogDriver.Name": "json-file"}),
    ("EndpointSpec.Ports[]", {"EndpointSpec.Ports[].TargetPort": 80}),
    ("EndpointSpec.Mode=dnsrr", {}),
    ("Mode", {"Mode": {}}),
    ("Mode.ReplicatedJob", {"Mode": {"ReplicatedJob": {"TotalCompletions": 0}}}),
    ("TaskTemplate.Resources.Reservations.GenericResources[].DiscreteResourceSpec", {
        "TaskTemplate.Resources.Reservations.GenericResources[].DiscreteResourceSpec":
            {"Kind": "gpu", "Value": 1},
    }),
    ("IPAM.Config[]", {"IPAM.Config[].Subnet": "10.77.0.0/24"}),
    ("DriverOpts", {"DriverOpts": {"type": "tmpfs", "device": "tmpfs"}}),
)  # fmt: skip
"""What a field, by the beginning of its path, needs beside it to have a meaning: in the request
with the field as well as in the one without it."""

WITH: Mapping[str, dict[str, Any]] = {
    f"{PRIVILEGES}.Seccomp.Mode=custom": {f"{PRIVILEGES}.Seccomp.Profile": PROFILE},
    f"{PRIVILEGES}.Seccomp.Profile": {f"{PRIVILEGES}.Seccomp.Mode": "custom"},
    f"{NAMED}.Value": {f"{NAMED}.Kind": "gpu"},
    f"{NAMED}.Kind": {f"{NAMED}.Value": "gpu1"},
}
"""What has a meaning only together with the field."""

VALUES: Mapping[str, Any] = {
    f"{CONTAINER}.Image": "other:1",
    f"{CONTAINER}.Groups[]": "7",
    f"{CONTAINER}.StopSignal": "SIGINT",
    f"{CONTAINER}.StopGracePeriod": 3 * SECOND,
    f"{CONTAINER}.Env[]": "A=b",
    f"{CONTAINER}.Dir": "/x",
    f"{CONTAINER}.Hosts[]": "10.0.0.1 x",
    f"{CONTAINER}.DNSConfig.Nameservers[]": "10.0.0.1",
    f"{CONTAINER}.HealthCheck.Test[]": "CMD-SHELL",
    f"{CONTAINER}.HealthCheck.Interval": SECOND,
    f"{CONTAINER}.HealthCheck.Timeout": SECOND,
    f"{CONTAINER}.HealthCheck.StartPeriod": SECOND,
    f"{CONTAINER}.HealthCheck.StartInterval": SECOND,
    f"{CONTAINER}.Sysctls{{}}": {"net.ipv4.ip_forward": "1"},
    f"{CONTAINER}.CapabilityAdd[]": "CAP_NET_ADMIN",
    f"{CONTAINER}.CapabilityDrop[]": "CAP_NET_RAW",
    f"{CONTAINER}.Ulimits[].Name": "nofile",
    f"{CONTAINER}.Ulimits[].Soft": 0,
    f"{CONTAINER}.Ulimits[].Hard": 2,
    f"{MOUNT}.Target": "/y",
    f"{MOUNT}.TmpfsOptions.SizeBytes": 1 << 20,
    f"{MOUNT}.TmpfsOptions.Mode": 0o700,
    f"{MOUNT}.TmpfsOptions.Options[][]": "exec",
    f"{MOUNT}.VolumeOptions.DriverConfig.Options{{}}": {"type": "tmpfs", "device": "tmpfs"},
    f"{MOUNT}.VolumeOptions.DriverConfig.Name": "other",
    f"{CONTAINER}.Secrets[].File.UID": "7",
    f"{CONTAINER}.Secrets[].File.GID": "7",
    f"{CONTAINER}.Configs[].File.UID": "7",
    f"{CONTAINER}.Configs[].File.GID": "7",
    f"{PRIVILEGES}.Seccomp.Profile": PROFILE,
    "TaskTemplate.Resources.Limits.MemoryBytes": 64 << 20,
    "TaskTemplate.Resources.Reservations.MemoryBytes": 64 << 20,
    "TaskTemplate.Resources.Limits.NanoCPUs": SECOND,
    "TaskTemplate.Resources.Reservations.NanoCPUs": SECOND,
    "TaskTemplate.Placement.Constraints[]": "node.role == manager",
    "TaskTemplate.Placement.Preferences[].Spread.SpreadDescriptor": "node.labels.zone",
    "TaskTemplate.RestartPolicy.Delay": SECOND,
    "TaskTemplate.RestartPolicy.Window": SECOND,
    "TaskTemplate.Runtime": "plugin",
    "TaskTemplate.LogDriver.Name": "local",
    "TaskTemplate.LogDriver.Options{}": {"max-size": "1m"},
    "TaskTemplate.Networks[].Target": "other",
    "Networks[].Target": "other",
    "EndpointSpec.Ports[].PublishedPort": 8080,
    "EndpointSpec.Ports[].TargetPort": 81,
    "Mode.Global": {},
    "Mode.GlobalJob": {},
    "UpdateConfig.Delay": SECOND,
    "UpdateConfig.Monitor": SECOND,
    "UpdateConfig.MaxFailureRatio": 0.5,
    "RollbackConfig.Delay": SECOND,
    "RollbackConfig.Monitor": SECOND,
    "RollbackConfig.MaxFailureRatio": 0.5,
    "Name": "made",
    "Driver": "other",
    "Scope": "global",
    "IPAM.Driver": "other",
    "IPAM.Config[].Subnet": "10.78.0.0/24",
    "IPAM.Config[].IPRange": "10.77.0.0/25",
    "IPAM.Config[].Gateway": "10.77.0.9",
    "IPAM.Config[].AuxiliaryAddresses{}": {"a": "10.77.0.7"},
    "EnableIPv4": False,
    "Data": base64.b64encode(b"other").decode(),
    "DriverOpts{}": {"o": "size=1m", "type": "tmpfs", "device": "tmpfs"},
    "Templating.Name": "golang",
    "Dispatcher.HeartbeatPeriod": 20 * SECOND,
    "CAConfig.NodeCertExpiry": 7200 * SECOND,
    "CAConfig.ExternalCAs[].URL": "https://x",
    "Raft.ElectionTick": 20,
    "Raft.HeartbeatTick": 2,
}
"""Values for fields whose type does not say what a good one is. Others get one by their type."""

USUAL: frozenset[str] = frozenset((
    f"{CONTAINER}.Isolation=default",
    f"{CONTAINER}.Isolation=",
    f"{PRIVILEGES}.Seccomp.Mode=default",
    f"{PRIVILEGES}.AppArmor.Mode=default",
    f"{MOUNT}.Type=volume",
    f"{MOUNT}.BindOptions.Propagation=rprivate",
    "TaskTemplate.RestartPolicy.Condition=any",
    "UpdateConfig.FailureAction=pause", "UpdateConfig.Order=stop-first",
    "RollbackConfig.FailureAction=pause", "RollbackConfig.Order=stop-first",
    "EndpointSpec.Mode=vip",
    "EndpointSpec.Ports[].Protocol=tcp", "EndpointSpec.Ports[].PublishMode=ingress",
    "Role=manager", "Availability=active",
))  # fmt: skip
"""Values that mean what a request without the field means."""

IDLE: Mapping[str, str] = {
    f"{MOUNT}.Consistency": "Docker drops it, too: it is for other systems than Linux",
    f"{PRIVILEGES}.SELinuxContext.Disable": "Weft gives containers no SELinux labels",
}
"""Fields that are taken and change nothing, with the reason; docs/compatibility.md lists them."""

UNSEEN = {"POST /secrets/create": "Data"}
"""A secret is shown to nobody: its tasks see it, in tests/conformance/test_api_secrets.py."""

NAMED_AS: Mapping[str, str] = {
    "EnableIPv4": "IPv4 cannot be disabled",
    "Role": "demote the last manager",
    "CAConfig.SigningCAKey": "signing CA key",
    "Options{}": "option k",
    f"{MOUNT}.Source": "volume name",
    f"{CONTAINER}.Secrets[].SecretID": "secret not found",
    f"{CONTAINER}.Configs[].ConfigID": "config not found",
    f"{NAMED}.Value": "resource gpu",
}
"""What the error about a field calls it, where Docker's text has another word."""


def put(body: Any, path: str, value: Any) -> None:
    """Sets the value at the path; a list has one item."""
    names = re.findall(r"[^.\[\]{}]+|\[\]|\{\}", path)
    if names[-1] == "{}" and isinstance(value, dict):
        names.pop()
    for name, following in itertools.pairwise(names):
        empty: Any = [] if following == "[]" else {}
        if name == "[]":
            if not body:
                body.append(copy.deepcopy(empty))
            body = body[0]
        else:
            body = body.setdefault(name, copy.deepcopy(empty))
    last = names[-1]
    if last == "[]":
        body[:] = value if isinstance(value, list) else [value]
    else:
        body["k" if last == "{}" else last] = value


def values_of(path: str, kind: str) -> list[Any]:
    if path in VALUES:
        return [VALUES[path]]
    name, _, choices = kind.partition(":")
    if choices:
        return choices.split("|")
    return [{"string": "x", "boolean": True, "integer": 7, "number": 0.5, "object": {"A": 1}}[name]]


def cases(request: str) -> list[tuple[str, Any]]:
    return [
        (path, value)
        for path, kind in FIELDS[request].items()
        for value in values_of(path, kind)
        if f"{path}={value}" not in USUAL and path not in (*IDLE, UNSEEN.get(request))
    ]


class Asker:
    """Asks for an object with and without the field, and compares what is told of it."""

    def __init__(self, ask: Get, ids: Mapping[str, str]) -> None:
        """`ids`: what `@name` stands for in a request."""
        self._ask = ask
        self._ids = ids

    async def complaint(self, request: str, path: str, value: Any) -> str:
        """Empty if the field has an effect or is refused by name; else what happened."""
        plain = copy.deepcopy(BODIES[request])
        for place, given in beside(path, value).items():
            put(plain, place, copy.deepcopy(given))
        full = copy.deepcopy(plain)
        put(full, path, value)
        for place, given in WITH.get(path, WITH.get(f"{path}={value}", {})).items():
            put(full, place, given)
        status, before = await self._asked(request, plain)
        if status >= 400:
            return f"without it: {before}"
        status, answer = await self._asked(request, full)
        if status < 400:
            return "" if before != answer else "accepted and ignored"
        is_named = any(word in str(answer).lower() for word in words_for(path, value))
        return "" if is_named and status in (400, 404, 409, 501) else f"{status} {answer}"

    async def _asked(self, request: str, body: dict[str, Any]) -> tuple[int, Any]:
        """(status, the error, or what is told of the object), without what each object has of its
        own."""
        path = request.removeprefix("POST ")
        if path.endswith("/update"):
            return await self._updated(path.removesuffix("/update"), body)
        text = json.dumps({"Name": "it"} | body)
        for name, id in self._ids.items():
            text = text.replace(f'"@{name}"', f'"{id}"')
        status, answer, _ = await self._ask("POST", path, text.encode())
        if status >= 400:
            return status, answer["message"]
        kind = path.removesuffix("/create")
        id = answer.get("ID") or answer.get("Id") or answer["Name"]
        _, told, _ = await self._ask("GET", f"{kind}/{id}")
        await self._ask("DELETE", f"{kind}/{id}")
        return status, told.get("Spec") or {k: v for k, v in told.items() if k not in OWN}

    async def _updated(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        path = path.replace("{id}", "self")
        _, told, _ = await self._ask("GET", path)
        version = told["Version"]["Index"]
        url = f"{path}/update?version={version}"
        status, answer, _ = await self._ask("POST", url, json.dumps(body).encode())
        if status >= 400:
            return status, answer["message"]
        _, told, _ = await self._ask("GET", path)
        return status, told["Spec"]


OWN = ("Id", "Created", "CreatedAt", "Mountpoint")
"""What each object has of its own."""


def words_for(path: str, value: Any) -> set[str]:
    """What the error about a field may call it: its name, the name of what it is in, the path of
    anything that it is in, its value."""
    names = re.sub(r"\[\]|\{\}", "", path).split(".")
    inside = {".".join(names[:end]) for end in range(1, len(names) + 1)} - {"TaskTemplate"}
    said = {*inside, *names[-2:], str(value), NAMED_AS.get(path, "")} - {""}
    return {word.lower() for word in said}


def beside(path: str, value: Any) -> Mapping[str, Any]:
    """The longest beginning counts."""
    found = [start for start, _ in BESIDE if f"{path}={value}".startswith(start)]
    return dict(BESIDE)[max(found, key=len)] if found else {}


def test_what_changes_nothing_is_told_to_users() -> None:
    for path in IDLE:
        assert f"`{path}`" in PAGE, path
        assert path in FIELDS["POST /services/create"]


@pytest.mark.parametrize("request_", FIELDS)
def test_each_field_has_an_effect_or_is_refused(request_: str, tmp_path: Path) -> None:
    async def ask_all() -> dict[str, str]:
        async with serving(tmp_path / "docker.sock") as (_, ask):
            ids = {}
            for kind in ("secret", "config"):
                body = json.dumps({"Name": kind, "Data": DATA}).encode()
                ids[kind] = (await ask("POST", f"/{kind}s/create", body))[1]["ID"]
            for name in ("net", "other"):
                await ask(
                    "POST",
                    "/networks/create",
                    json.dumps({"Name": name, "Driver": "overlay"}).encode(),
                )
            asker = Asker(ask, ids)
            return {
                f"{path}={value}": complaint
                for path, value in cases(request_)
                if (complaint := await asker.complaint(request_, path, value))
            }

    assert asyncio.run(ask_all()) == {}
