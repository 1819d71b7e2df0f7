"""`docker info`: what auditors read."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from tests.unit.api.served import serving
from weft.api.schema.system import info_json
from weft.model.host import HostInfo
from weft.model.registry import RegistrySettings

HOST = HostInfo(
    hostname="h", engine_id="i", kernel="6", operating_system="Debian", os_version="12",
    architecture="x86_64", cpus=2, memory=1, data_root="/", runtime="runc 1.1.5",
    runtime_commit="v1.1.5-0-gabc", conmon="conmon 2.1.6", version="1", started_at=1,
)  # fmt: skip


@pytest.mark.parametrize(("version", "kills"), [("1", True), ("2", False)])
def test_limits_and_confinement_are_those_of_the_host(version: str, kills: bool) -> None:
    host = msgspec.structs.replace(HOST, cgroup_version=version, swap_limit=True, seccomp=True)
    shown = info_json(host, {}, {}, 0, 1, descriptors=9)
    assert (shown["SwapLimit"], shown["OomKillDisable"], shown["NFd"]) == (True, kills, 9)
    assert "name=seccomp,profile=builtin" in shown["SecurityOptions"]
    assert shown["RuncCommit"] == {"ID": "v1.1.5-0-gabc"}
    bare = info_json(HOST, {}, {}, 0, 1)
    assert bare["SwapLimit"] is False
    assert not any("seccomp" in option for option in bare["SecurityOptions"])


def test_registries_are_those_that_the_daemon_uses(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "docker.sock") as (_, ask):
            _, shown, _ = await ask("GET", "/info")
            assert shown["RegistryConfig"]["IndexConfigs"]["docker.io"]["Official"] is True
            assert shown["RegistryConfig"]["InsecureRegistryCIDRs"] == ["::1/128", "127.0.0.0/8"]
            assert shown["NFd"] > 0

    asyncio.run(main())


def test_configured_registries_are_shown() -> None:
    settings = RegistrySettings(
        insecure=("reg.test:5000", "192.0.2.0/24"), mirrors=("https://mirror.test",)
    )
    host = msgspec.structs.replace(HOST, registries=settings)
    shown = info_json(host, {}, {}, 0, 1)["RegistryConfig"]
    assert shown["IndexConfigs"]["reg.test:5000"]["Secure"] is False
    assert shown["IndexConfigs"]["docker.io"]["Mirrors"] == ["https://mirror.test"]
    assert shown["Mirrors"] == ["https://mirror.test"]
    assert shown["InsecureRegistryCIDRs"] == ["::1/128", "127.0.0.0/8", "192.0.2.0/24"]


def test_networks_of_the_host_are_as_old_as_the_daemon(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "docker.sock") as (_, ask):
            _, shown, _ = await ask("GET", "/networks")
            assert {n["Name"] for n in shown} >= {"bridge", "host", "none", "docker_gwbridge"}
            assert not [n["Name"] for n in shown if n["Created"].startswith("0001")]

    asyncio.run(main())
