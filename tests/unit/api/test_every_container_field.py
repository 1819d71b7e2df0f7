"""Nothing is accepted and then ignored, of plain containers: each field of the requests that make and
update one changes what is told of it, or is refused by its name.

`recorded/container-field-types.json` has every field of the bodies of those requests in version
1.51 of the API (moby, api/docs/v1.51.yaml), as `field-types.json` has others'.
"""

import asyncio
import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_images import IMAGE
from tests.unit.api.served import Get, serving

FIELDS: Mapping[str, Mapping[str, str]] = json.loads(
    (Path(__file__).parent / "recorded" / "container-field-types.json").read_text()
)
PAGE = (Path(__file__).parents[3] / "docs" / "compatibility.md").read_text()
CREATE = "POST /containers/create"
MOUNT, ENDPOINT = "HostConfig.Mounts[]", "NetworkingConfig.EndpointsConfig{}"
SECOND, MEGABYTE = 10**9, 1 << 20

KEYS: Mapping[str, str] = {
    "ExposedPorts": "81/tcp", "PortBindings": "80/tcp", "EndpointsConfig": "own", "Volumes": "/x",
    "Tmpfs": "/x", "Sysctls": "net.ipv4.ip_forward", "Config": "max-size",
}  # fmt: skip
"""Good keys of maps, by the map's name. Others have `KEY`."""
KEY = "some-key"

BESIDE: Mapping[str, dict[str, Any]] = {
    "Healthcheck": {"Healthcheck.Test": ["CMD", "true"]},
    "HostConfig.BlkioWeightDevice[]": {
        "HostConfig.BlkioWeightDevice[]": {"Path": "/dev/null", "Weight": 20}
    },
    **{
        f"HostConfig.BlkioDevice{what}[]": {
            f"HostConfig.BlkioDevice{what}[]": {"Path": "/dev/null", "Rate": 20}
        }
        for what in ("ReadBps", "WriteBps", "ReadIOps", "WriteIOps")
    },
    "HostConfig.Devices[]": {"HostConfig.Devices[].PathOnHost": "/dev/null"},
    "HostConfig.Ulimits[]": {"HostConfig.Ulimits[]": {"Name": "core", "Soft": 1, "Hard": 1}},
    "HostConfig.PortBindings{}[]": {"HostConfig.PortBindings{}[].HostPort": "8080"},
    "HostConfig.MemorySwap": {"HostConfig.Memory": 64 * MEGABYTE},
    "HostConfig.RestartPolicy.MaximumRetryCount": {"HostConfig.RestartPolicy.Name": "on-failure"},
    "HostConfig.AutoRemove": {},
    MOUNT: {MOUNT: {"Type": "volume", "Source": "volume1", "Target": "/x"}},
    f"{MOUNT}.BindOptions": {MOUNT: {"Type": "bind", "Source": "/etc", "Target": "/x"}},
    f"{MOUNT}.BindOptions.ReadOnly": {
        MOUNT: {"Type": "bind", "Source": "/etc", "Target": "/x", "ReadOnly": True},
        f"{MOUNT}.BindOptions.Propagation": "rprivate",
    },
    f"{MOUNT}.TmpfsOptions": {MOUNT: {"Type": "tmpfs", "Target": "/x"}},
    ENDPOINT: {"HostConfig.NetworkMode": "own", ENDPOINT: {}},
    "MacAddress": {"HostConfig.NetworkMode": "own"},
    "MemorySwap": {"Memory": 64 * MEGABYTE},
    "RestartPolicy.MaximumRetryCount": {"RestartPolicy.Name": "on-failure"},
}
"""What a field, by the beginning of its path, needs beside it to have a meaning: in the request
with the field as well as in the one without it. The longest beginning counts."""

VALUES: Mapping[str, Any] = {
    "Image": "other:1",
    "Env[]": "A=b",
    "WorkingDir": "/x",
    "MacAddress": "02:42:ac:11:00:09",
    "StopSignal": "SIGINT",
    "Healthcheck.Test[]": "CMD-SHELL",
    **{
        f"Healthcheck.{name}": SECOND
        for name in ("Interval", "Timeout", "StartPeriod", "StartInterval")
    },
    "HostConfig.Memory": 64 * MEGABYTE,
    "HostConfig.MemoryReservation": 64 * MEGABYTE,
    "HostConfig.MemorySwap": 256 * MEGABYTE,
    "HostConfig.BlkioWeight": 20,
    "HostConfig.BlkioWeightDevice[].Weight": 30,
    "HostConfig.CpuPeriod": 50_000,
    "HostConfig.CpuQuota": 50_000,
    "HostConfig.CpusetCpus": "0",
    "HostConfig.CpusetMems": "0",
    "HostConfig.NanoCpus": SECOND,
    "HostConfig.Devices[].PathOnHost": "/dev/zero",
    "HostConfig.Devices[].CgroupPermissions": "r",
    "HostConfig.Ulimits[].Name": "nofile",
    "HostConfig.Ulimits[].Soft": 0,
    "HostConfig.Ulimits[].Hard": 2,
    "HostConfig.Binds[]": "/etc:/x",
    "HostConfig.LogConfig.Config{}": "1m",
    "HostConfig.NetworkMode": "own",
    "HostConfig.PortBindings{}[].HostIp": "127.0.0.1",
    "HostConfig.PortBindings{}[].HostPort": "8081",
    f"{MOUNT}.Source": "volume2",
    f"{MOUNT}.Target": "/y",
    f"{MOUNT}.TmpfsOptions.SizeBytes": MEGABYTE,
    f"{MOUNT}.TmpfsOptions.Mode": 0o700,
    f"{MOUNT}.TmpfsOptions.Options[][]": "exec",
    "HostConfig.ConsoleSize[]": [7, 8],
    "HostConfig.CapAdd[]": "CAP_NET_ADMIN",
    "HostConfig.CapDrop[]": "CAP_NET_RAW",
    "HostConfig.Dns[]": "10.0.0.1",
    "HostConfig.ExtraHosts[]": "db:10.0.0.1",
    "HostConfig.GroupAdd[]": "7",
    "HostConfig.IpcMode": "host",
    "HostConfig.PidMode": "host",
    "HostConfig.UTSMode": "host",
    "HostConfig.UsernsMode": "host",
    "HostConfig.SecurityOpt[]": "no-new-privileges",
    "HostConfig.Tmpfs{}": "size=1m",
    "HostConfig.ShmSize": MEGABYTE,
    "HostConfig.Sysctls{}": "1",
    "HostConfig.MaskedPaths[]": "/proc/x",
    "HostConfig.ReadonlyPaths[]": "/proc/x",
    f"{ENDPOINT}.IPAMConfig.IPv4Address": "10.77.0.9",
    f"{ENDPOINT}.IPAMConfig.IPv6Address": "fd00::9",
    f"{ENDPOINT}.MacAddress": "02:42:ac:11:00:09",
    **dict.fromkeys(("Memory", "MemoryReservation"), 64 * MEGABYTE),
    "MemorySwap": 256 * MEGABYTE,
    "BlkioWeight": 20,
    "CpuPeriod": 50_000,
    "CpuQuota": 50_000,
    "CpusetCpus": "0",
    "CpusetMems": "0",
    "NanoCpus": SECOND,
}  # fmt: skip
"""Values for fields whose type does not say what a good one is. Others get one by their type."""

USUAL: frozenset[str] = frozenset((
    "HostConfig.LogConfig.Type=json-file", "HostConfig.RestartPolicy.Name=",
    "HostConfig.RestartPolicy.Name=no", "HostConfig.CgroupnsMode=host",
    "HostConfig.Isolation=default", "HostConfig.Isolation=", f"{MOUNT}.Type=volume",
    "RestartPolicy.Name=", "RestartPolicy.Name=no",
))  # fmt: skip
"""Values that mean what a request without the field means."""

IDLE: Mapping[str, str] = {
    "Shell[]": "for builds",
    f"{MOUNT}.Consistency": "Docker drops it, too: it is for other systems than Linux",
    **{
        f"{ENDPOINT}.{name}": "the daemon's own choice, which clients send back"
        for name in (
            "NetworkID", "EndpointID", "Gateway", "IPAddress", "IPPrefixLen", "IPv6Gateway",
            "GlobalIPv6Address", "GlobalIPv6PrefixLen", "DNSNames[]",
        )
    },
}  # fmt: skip
"""Fields that are taken and change nothing, with the reason; docs/compatibility.md lists them."""

OWN = re.compile(r'"(?:Id|Created|\w+Path|LogPath)":"[^"]*"')
"""What each container has of its own."""


def put(body: Any, path: str, value: Any) -> None:
    """Sets the value at the path; a list has one item, a map one key."""
    steps, name = [], ""
    for step in re.findall(r"[^.\[\]{}]+|\[\]|\{\}", path):
        steps.append(KEYS.get(name, KEY) if step == "{}" else step)
        name = step
    for step, following in zip(steps, [*steps[1:], ""], strict=True):
        if step == "[]":
            if not following:
                body[:] = value if isinstance(value, list) else [value]
                return
            if not body:
                body.append([] if following == "[]" else {})
            body = body[0]
        elif not following:
            body[step] = value
        else:
            body = body.setdefault(step, [] if following == "[]" else {})


def values_of(path: str, kind: str) -> list[Any]:
    name, _, choices = kind.partition(":")
    if path in VALUES:
        return [VALUES[path]]
    if choices:
        return choices.split("|")
    return [{"string": "odd-value", "boolean": True, "integer": 7, "object": {}}[name]]


def cases(request: str) -> list[tuple[str, Any]]:
    return [
        (path, value)
        for path, kind in FIELDS[request].items()
        for value in values_of(path, kind)
        if f"{path}={value}" not in USUAL and path not in IDLE
    ]


def beside(path: str) -> dict[str, Any]:
    found = [start for start in BESIDE if path.startswith(start)]
    return BESIDE[max(found, key=len)] if found else {}


class Asker:
    """Asks for a container with and without the field, and compares what is told of it."""

    def __init__(self, ask: Get) -> None:
        self._ask = ask
        self._compared: set[str] = set()

    async def complaint(self, request: str, path: str, value: Any) -> str:
        """Empty if the field has an effect or is refused by name; else what happened."""
        plain: dict[str, Any] = {"Image": IMAGE} if request == CREATE else {}
        for place, given in beside(path).items():
            put(plain, place, copy.deepcopy(given))
        full = copy.deepcopy(plain)
        put(full, path, value)
        asked = self._created if request == CREATE else self._updated
        status, before = await asked(plain)
        if status >= 400:
            return f"without it: {before}"
        if (without := json.dumps(plain)) not in self._compared:
            self._compared.add(without)
            if (await asked(plain))[1] != before:
                return "without it: something else is told each time"
        status, answer = await asked(full)
        if status < 400:
            return "" if before != answer else "accepted and ignored"
        is_named = any(word in answer.lower() for word in words_for(path, value))
        return "" if is_named and status in (400, 404, 409, 501) else f"{status} {answer}"

    async def _created(self, body: dict[str, Any]) -> tuple[int, str]:
        """(status, the error or what is told of the container)"""
        text = json.dumps(body).encode()
        status, answer, _ = await self._ask("POST", "/containers/create?name=it", text)
        if status >= 400:
            return status, answer["message"]
        return status, await self._told()

    async def _updated(self, body: dict[str, Any]) -> tuple[int, str]:
        made = json.dumps({"Image": IMAGE}).encode()
        await self._ask("POST", "/containers/create?name=it", made)
        text = json.dumps(body).encode()
        status, answer, _ = await self._ask("POST", "/containers/it/update", text)
        told = await self._told()
        return (status, answer["message"]) if status >= 400 else (status, told)

    async def _told(self) -> str:
        _, told, _ = await self._ask("GET", "/containers/it/json")
        await self._ask("DELETE", "/containers/it?v=1&force=1")
        if told["Config"]["Hostname"] in told["Id"]:
            del told["Config"]["Hostname"]
        return OWN.sub("", json.dumps(told, separators=(",", ":")))


def words_for(path: str, value: Any) -> set[str]:
    """What the error about a field may call it: its name, that of what it is in, its value."""
    names = re.sub(r"\[\]|\{\}", "", path).split(".")
    return {word.lower() for word in (*names[-2:], str(value), *([KEY] if "{}" in path else ()))}


def test_what_changes_nothing_is_told_to_users() -> None:
    for path in IDLE:
        assert path in FIELDS[CREATE]
        within, _, name = path.removesuffix("[]").rpartition(".")
        shown = f"`{within}.{name}`" if within == MOUNT else f"`{name}`"
        assert any(shown in row and "of a container" in row for row in PAGE.splitlines()), path


def test_an_update_takes_the_limit_of_processes_away(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path / "docker.sock") as (_, ask):
            made = json.dumps({"Image": IMAGE, "HostConfig": {"PidsLimit": 5}}).encode()
            assert (await ask("POST", "/containers/create?name=it", made))[0] == 201
            for given, left in ((None, 5), (6, 6), (None, 6), (-1, None), (7, 7), (0, None)):
                body = json.dumps({"CpuShares": 9, "PidsLimit": given}).encode()
                assert (await ask("POST", "/containers/it/update", body))[0] == 200
                _, told, _ = await ask("GET", "/containers/it/json")
                assert told["HostConfig"]["PidsLimit"] == left, given

    asyncio.run(check())


@pytest.mark.parametrize("request_", FIELDS)
def test_each_field_has_an_effect_or_is_refused(request_: str, tmp_path: Path) -> None:
    async def ask_all() -> dict[str, str]:
        async with serving(tmp_path / "docker.sock") as (node, ask):
            await node.images.tag(IMAGE, "other:1")
            pools = {"Config": [{"Subnet": "10.77.0.0/24"}, {"Subnet": "fd00::/64"}]}
            own = {"Name": "own", "Driver": "bridge", "EnableIPv6": True, "IPAM": pools}
            body = json.dumps(own).encode()
            assert (await ask("POST", "/networks/create", body))[0] == 201
            asker = Asker(ask)
            return {
                f"{path}={value}": complaint
                for path, value in cases(request_)
                if (complaint := await asker.complaint(request_, path, value))
            }

    assert asyncio.run(ask_all()) == {}
