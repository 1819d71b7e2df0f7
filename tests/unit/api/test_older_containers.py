"""A request for a container in the version of the API that it names, against what Docker Engine 28
answers to the same."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_images import IMAGE
from tests.unit.api.served import serving
from weft.api.schema.container_request import request_from
from weft.api.schema.container_wire import NewContainerWire
from weft.api.schema.decoding import decode
from weft.api.schema.older_containers import (
    MAC_WARNING,
    as_of,
    warnings_of,
    whole_trees_are_read_only,
)
from weft.api.versions import Version, later_fields
from weft.errors import InvalidArgument
from weft.model.container_request import ContainerRequest

OLD: Version = (1, 39)
NEW: Version = (1, 51)
MAC, OTHER = "02:42:ac:11:00:09", "02:42:ac:11:00:08"


def wire(version: Version, host: dict[str, Any], **fields: Any) -> NewContainerWire:
    body = json.dumps({"Image": "demo", "HostConfig": host} | fields).encode()
    return decode(body, NewContainerWire, later=later_fields("NewContainerWire", version))


def asked(version: Version, host: dict[str, Any], **fields: Any) -> ContainerRequest:
    read = as_of(wire(version, host, **fields), version)
    trees = whole_trees_are_read_only(version)
    return request_from(read, "it", str, (), read_only_trees=trees)


@pytest.mark.parametrize(
    ("version", "given", "mode"),
    [(OLD, "", "shareable"), (OLD, "private", "private"), ((1, 40), "", ""), (NEW, "", "")],
)
def test_ipc_used_to_be_shareable(version: Version, given: str, mode: str) -> None:
    assert asked(version, {"IpcMode": given}).plain.modes.ipc == mode


@pytest.mark.parametrize("version", [OLD, (1, 43), (1, 44), NEW])
def test_read_only_binds_used_to_be_of_one_file_system(version: Version) -> None:
    host = {
        "Binds": ["/a:/one:ro", "/a:/two", "data:/three:ro"],
        "Mounts": [
            {"Type": "bind", "Source": "/a", "Target": "/four", "ReadOnly": True},
            {"Type": "bind", "Source": "/a", "Target": "/five"},
        ],
    }
    found = {m.target: m.bind is not None and m.bind.read_only_non_recursive
             for m in asked(version, host).spec.mounts}  # fmt: skip
    alone = version < (1, 44)
    assert found == {"/one": alone, "/two": False, "/three": False, "/four": alone, "/five": False}


@pytest.mark.parametrize(
    ("mount", "text"),
    [
        (
            {"Type": "volume", "BindOptions": {}},
            'BindOptions must not be specified on mount type "v',
        ),
        (
            {"Type": "tmpfs", "VolumeOptions": {}},
            "VolumeOptions must not be specified on mount typ",
        ),
        ({"Type": "bind", "TmpfsOptions": {}}, "TmpfsOptions must not be specified on mount type"),
        ({"Source": "/a"}, 'invalid mount config for type "": mount type unknown'),
    ],
)
def test_options_of_another_type_are_refused(mount: dict[str, Any], text: str) -> None:
    host = {"Mounts": [{"Target": "/x", **mount}]}
    with pytest.raises(InvalidArgument, match=text):
        asked((1, 42), host)


@pytest.mark.parametrize(
    "options", [{"VolumeOptions": {"NoCopy": True}}, {"TmpfsOptions": {"Mode": 1}}]
)
def test_options_of_another_type_used_to_be_dropped(options: dict[str, Any]) -> None:
    mount = {"Type": "bind", "Source": "/a", "Target": "/x", **options}
    (found,) = asked((1, 41), {"Mounts": [mount]}).spec.mounts
    assert (found.volume, found.tmpfs_mode) == (None, 0)


def test_images_are_mounted_since_1_48() -> None:
    mount = {"Type": "image", "Source": "demo", "Target": "/x"}
    with pytest.raises(InvalidArgument, match='Mount type "Image" needs API v1.48 or newer'):
        asked((1, 47), {"Mounts": [mount]})


def places(request: ContainerRequest) -> dict[str, str]:
    return {settings.network: settings.mac for settings in request.plain.networks}


def networks(**macs: str) -> dict[str, Any]:
    return {"EndpointsConfig": {name: {"MacAddress": mac} for name, mac in macs.items()}}


@pytest.mark.parametrize("version", [OLD, NEW])
def test_the_default_network_is_for_who_names_no_other(version: Version) -> None:
    assert places(asked(version, {})) == {"bridge": ""}
    assert places(asked(version, {}, NetworkingConfig=networks(own=""))) == {"own": ""}
    with_mode = asked(version, {"NetworkMode": "own"}, NetworkingConfig=networks(own=""))
    assert places(with_mode) == {"own": ""}


@pytest.mark.parametrize(
    ("version", "mode", "given", "found"),
    [
        (OLD, "", {}, {"bridge": MAC}),
        (OLD, "", {"own": OTHER}, {"own": MAC}),
        (OLD, "own", {"own": OTHER}, {"own": MAC}),
        (NEW, "", {}, {"bridge": MAC}),
        (NEW, "", {"default": ""}, {"bridge": MAC}),
        (NEW, "own", {}, {"own": MAC}),
        (NEW, "own", {"bridge": "", "own": MAC}, {"own": MAC, "bridge": ""}),
        (NEW, "host", {}, {}),
        (OLD, "host", {}, "conflicting options: mac-address and the network mode"),
        (NEW, "own", {"own": OTHER}, "the container-wide MAC address must match the endpoint-spec"),
        (NEW, "", {"own": ""}, "HostConfig.NetworkMode must match the identity of a network"),
    ],
)
def test_the_address_of_the_container_is_its_first_network_s(
    version: Version, mode: str, given: dict[str, str], found: dict[str, str] | str
) -> None:
    fields = {"MacAddress": MAC, "NetworkingConfig": networks(**given)}
    read = wire(version, {"NetworkMode": mode}, **fields)
    assert warnings_of(read, version) == ([MAC_WARNING] if version == NEW else [])
    if isinstance(found, str):
        with pytest.raises(InvalidArgument, match=found):
            asked(version, {"NetworkMode": mode}, **fields)
    else:
        assert places(asked(version, {"NetworkMode": mode}, **fields)) == found


def test_the_version_of_the_path_counts(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (_, ask):
            body = json.dumps({"Image": IMAGE, "MacAddress": MAC}).encode()
            for version, mode, warnings in (
                ("1.39", "shareable", []),
                ("1.51", "private", [MAC_WARNING]),
            ):
                _, made, _ = await ask("POST", f"/v{version}/containers/create", body)
                assert made["Warnings"] == warnings
                _, told, _ = await ask("GET", f"/containers/{made['Id']}/json")
                assert told["HostConfig"]["IpcMode"] == mode

    asyncio.run(check())
