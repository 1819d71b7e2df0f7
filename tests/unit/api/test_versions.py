"""What a request gets that names an older version of the API: as Docker's version history has it,
from one table."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.fake_images import IMAGE
from tests.unit.api.served import run_service, serving
from weft.api import versions
from weft.api.routes import ROUTES
from weft.api.schema.bridge_network import ConnectWire
from weft.api.schema.container import ExecStartWire, ExecWire
from weft.api.schema.container_wire import NewContainerWire, UpdateContainerWire
from weft.api.schema.decoding import decode
from weft.api.schema.network import NetworkWire
from weft.api.schema.service_wire import ServiceWire
from weft.api.schema.swarm import InitWire
from weft.errors import InvalidArgument

WIRES = {
    wire.__name__: wire
    for wire in (
        ServiceWire, NewContainerWire, UpdateContainerWire, InitWire, NetworkWire, ConnectWire,
        ExecWire, ExecStartWire,
    )
}  # fmt: skip
NUMBERS = (
    "MaxReplicas", "Pids", "OomScoreAdj", "SubnetSize", "DataPathPort", "PidsLimit",
    "StartInterval", "GwPriority", "KernelMemoryTCP",
)  # fmt: skip
ALL = [f"1.{minor}" for minor in range(24, 52)]


def field(path: str) -> tuple[bytes, Any]:
    """A body that says something at this path and nowhere else."""
    value: Any = True
    if path.endswith(("Sysctls", "ReplicatedJob", "GlobalJob", "Annotations")):
        value = {"a": "1"}
    elif path.endswith(("CapabilityAdd", "CapabilityDrop", "DefaultAddrPool", "Options")):
        value = ["a"]
    elif path.endswith("Ulimits"):
        value = [{"Name": "a"}]
    elif path.endswith(NUMBERS):
        value = 5
    elif path.endswith("MacAddress"):
        value = "02:42:ac:11:00:02"
    elif path.endswith("ConsoleSize"):
        value = [5, 5]
    elif path.endswith("EnableIPv4"):
        value = False
    for step in reversed(path.split(".")):
        value = _nested(step, value)
    return msgspec.json.encode(value), value


def _nested(step: str, value: Any) -> Any:
    if step.endswith("{}"):
        value = {"any": value}
    return {step.rstrip("[]{}"): [value] if step.endswith("[]") else value}


@pytest.mark.parametrize(
    ("wire", "path", "since"),
    [
        (wire, path, since)
        for wire, fields in versions.FIELDS.items()
        for path, since in fields.items()
    ],
)
def test_a_field_is_read_from_its_version_on_and_dropped_before(
    wire: str, path: str, since: versions.Version
) -> None:
    body, _ = field(path)
    before = decode(body, WIRES[wire], later=versions.later_fields(wire, (since[0], since[1] - 1)))
    assert before == decode(_without(path), WIRES[wire])
    try:
        after = decode(body, WIRES[wire], later=versions.later_fields(wire, since))
    except InvalidArgument as error:
        assert path.replace("[]", "[0]").replace("{}", ".any") in str(error)  # noqa: PT017  one that Weft lacks
    else:
        assert after != before


def _without(path: str) -> bytes:
    """The same body with the last step empty."""
    value: Any = {}
    for step in reversed(path.split(".")[:-1]):
        value = _nested(step, value)
    return msgspec.json.encode(value)


def test_what_the_table_names_is_there() -> None:
    paths = {path.replace("{id:.+}", "{id}") for _, path, _ in ROUTES}
    assert set(versions.PARAMETERS) <= paths
    assert set(versions.FIELDS) == set(WIRES)
    for since in (*versions.PARAMETERS.values(), *versions.FIELDS.values()):
        for version in since.values():
            assert (1, 24) < version <= versions.version_number(versions.MAX_VERSION)


def test_every_version_from_the_oldest_to_the_newest_works(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, ask):
            container = await run_service(node)
            for version in ALL:
                for path in (
                    "/_ping",
                    "/info",
                    "/version",
                    "/services",
                    "/tasks",
                    "/nodes",
                    "/networks",
                    "/swarm",
                    "/images/json",
                    f"/images/{IMAGE}/json",
                    "/containers/json",
                    f"/containers/{container}/json",
                ):
                    status, _, headers = await ask("GET", f"/v{version}{path}")
                    assert (status, headers["Api-Version"]) == (200, "1.51"), f"{version} {path}"
            assert (await ask("GET", "/v1.23/info"))[0] == 400
            assert (await ask("GET", "/v1.52/info"))[0] == 400

    asyncio.run(check())


def test_answers_have_what_their_version_has(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, ask):
            container = await run_service(node)
            short = container[:12]

            async def get(version: str, path: str) -> Any:
                return (await ask("GET", f"/v{version}{path}"))[1]

            for version in ALL:
                number = versions.version_number(version)
                info, image = (
                    await get(version, "/info"),
                    await get(version, f"/images/{IMAGE}/json"),
                )
                (summary, *_) = await get(version, "/images/json")
                assert ("BridgeNfIptables" in info) == (number < (1, 50))
                assert ("Expected" in info["RuncCommit"]) == (number < (1, 49))
                assert ("FirewallBackend" in info) == (number >= (1, 49))
                assert ("AllowNondistributableArtifactsCIDRs" in info["RegistryConfig"]) == (
                    number < (1, 47)
                )
                assert any("=" in option for option in info["SecurityOptions"]) == (
                    number >= (1, 25)
                )
                assert ("AttachStdin" in image["Config"]) == (number < (1, 50))
                assert ("VirtualSize" in image) == ("VirtualSize" in summary) == (number < (1, 44))
                assert summary["Containers"] == (1 if number >= (1, 51) else -1)
                networks = (await get(version, f"/containers/{container}/json"))["NetworkSettings"][
                    "Networks"
                ]
                for place in networks.values():
                    assert (short in (place["Aliases"] or ())) == (number < (1, 45))
            old, new = (
                await get("1.40", "/services?status=true"),
                await get("1.41", "/services?status=true"),
            )
            assert "ServiceStatus" not in old[0]
            assert "ServiceStatus" in new[0]
            for version, expected in (("1.41", "raw-stream"), ("1.42", "multiplexed-stream")):
                _, _, headers = await ask(
                    "GET", f"/v{version}/containers/{container}/logs?stdout=1"
                )
                assert headers["Content-Type"].endswith(expected)
            assert (await ask("POST", f"/v1.41/containers/{container}/stop?signal=SIGINT"))[
                0
            ] == 204

    asyncio.run(check())


def test_an_image_without_a_name_is_called_none_up_to_1_42() -> None:
    summary = {"RepoTags": [], "RepoDigests": [], "Size": 1, "Containers": 3}
    assert versions.image_summary_answer(summary, (1, 42))["RepoTags"] == ["<none>:<none>"]
    assert versions.image_summary_answer(summary, (1, 42))["RepoDigests"] == ["<none>@<none>"]
    assert versions.image_summary_answer(summary, (1, 43))["RepoTags"] == []


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("platform={\"os\":\"linux\",\"architecture\":\"amd64\"}", 200),
        ("platform={\"os\":\"linux\",\"architecture\":\"s390x\"}", 404),
        ("platform=linux", 400),
        ("platform={\"os\":\"linux\",\"architecture\":\"amd64\"}&manifests=1", 400),
        ("manifests=1", 200),
    ],
)  # fmt: skip
def test_an_image_is_had_for_its_own_platform_only(tmp_path: Path, query: str, status: int) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (_, ask):
            assert (await ask("GET", f"/v1.49/images/{IMAGE}/json?{query}"))[0] == status
            assert (await ask("GET", f"/v1.47/images/{IMAGE}/json?{query}"))[0] == 200

    asyncio.run(check())


def test_a_service_of_an_old_client_has_only_what_that_client_can_say(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (_, ask):
            container = {
                "Image": IMAGE,
                "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 1}],
                "Sysctls": {"net.a": "b"},
            }
            for version, has in (
                ("1.24", []),
                ("1.40", ["Sysctls"]),
                ("1.41", ["Sysctls", "Ulimits"]),
            ):
                body = {"Name": f"s{version[2:]}", "TaskTemplate": {"ContainerSpec": container}}
                status, made, _ = await ask(
                    "POST", f"/v{version}/services/create", json.dumps(body).encode()
                )
                assert status == 201
                _, service, _ = await ask("GET", f"/services/{made['ID']}")
                spec = service["Spec"]["TaskTemplate"]["ContainerSpec"]
                assert [name for name in ("Sysctls", "Ulimits") if name in spec] == has

    asyncio.run(check())


def test_an_older_request_for_a_container_that_would_come_out_otherwise_is_refused(
    tmp_path: Path,
) -> None:
    volume = {"Type": "volume", "Source": "data", "Target": "/x"}
    bind = {"Type": "bind", "Source": "/etc", "Target": "/x", "ReadOnly": True}
    strict = {"ReadOnlyForceRecursive": True, "Propagation": "rprivate"}
    asked: list[tuple[str, str, str, dict[str, Any]]] = [
        ("1.44", "1.45", "VolumeOptions.Subpath needs API v1.45 or newer", {
            "HostConfig": {"Mounts": [volume | {"VolumeOptions": {"Subpath": "a"}}]},
        }),
        ("1.43", "1.44", "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer", {
            "HostConfig": {"Mounts": [bind | {"BindOptions": strict}]},
        }),
        ("1.43", "1.44", "Container cannot be created with multiple network endpoints: one, two", {
            "HostConfig": {"NetworkMode": "one"},
            "NetworkingConfig": {"EndpointsConfig": {"one": {}, "two": {}}},
        }),
    ]  # fmt: skip

    async def check() -> None:
        async with serving(tmp_path / "s") as (_, ask):
            for before, since, text, given in asked:
                body = json.dumps({"Image": IMAGE} | given).encode()
                status, answer, _ = await ask("POST", f"/v{before}/containers/create", body)
                assert (status, answer) == (400, {"message": text})
                status, answer, _ = await ask("POST", f"/v{since}/containers/create", body)
                assert status == 201, answer

    asyncio.run(check())
