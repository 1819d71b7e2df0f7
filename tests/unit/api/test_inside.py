"""Looking into containers through the API: files, changes, use of resources."""

import asyncio
import base64
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.unit.api.served import run_service, serving
from weft.api import stats
from weft.api.schema.inside import STAT_HEADER, go_mode, usage_json
from weft.model.container import Container, ContainerConfig
from weft.model.ids import ContainerId
from weft.model.inside import BlockUse, CpuUse, MemoryUse, Usage
from weft.model.service import ContainerSpec


def tar(name: str, content: bytes) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as opened:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        opened.addfile(info, io.BytesIO(content))
    return written.getvalue()


def test_the_header_describes_the_file_as_go_does(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "docker.sock") as (node, ask):
            container = await run_service(node, "sh", "-c", "sleep 60")
            root = node.files.root(container)
            (root / "tmp").mkdir()
            (root / "tmp").chmod(0o1777)
            (root / "link").symlink_to("tmp")
            for method in ("HEAD", "GET"):
                status, _, headers = await ask(method, f"/containers/{container}/archive?path=link")
                assert status == 200
                shown = json.loads(base64.b64decode(headers[STAT_HEADER]))
                assert (shown["name"], shown["linkTarget"]) == ("link", "/tmp")
                assert shown["mode"] & 1 << 27
            status, _, headers = await ask("HEAD", f"/containers/{container}/archive?path=/tmp/")
            shown = json.loads(base64.b64decode(headers[STAT_HEADER]))
            assert shown["mode"] == 1 << 31 | 1 << 20 | 0o777

    asyncio.run(main())


@pytest.mark.parametrize(
    ("mode", "go"),
    [(0o100644, 0o644), (0o104755, 1 << 23 | 0o755), (0o020620, 1 << 26 | 1 << 21 | 0o620)],
)
def test_modes_are_gos(mode: int, go: int) -> None:
    assert go_mode(mode) == go


def test_files_go_in_and_what_is_missing_or_no_directory_is_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "docker.sock") as (node, ask):
            container = await run_service(node, "sh", "-c", "sleep 60")
            name = node.containers.get(ContainerId(container)).config.name
            (node.files.root(container) / "data").mkdir()
            url = f"/containers/{container}/archive?path="
            archive = tar("note", b"hello")
            tar_type = {"Content-Type": "application/x-tar"}
            assert (await ask("PUT", url + "/data", archive, **tar_type))[0] == 200
            assert (node.files.root(container) / "data/note").read_text() == "hello"
            for method in ("GET", "PUT"):
                status, body, _ = await ask(method, url + "/nope", archive)
                assert (status, body["message"]) == (
                    404,
                    f"Could not find the file /nope in container {name}",
                )
            status, body, _ = await ask("PUT", url + "/data/note", archive)
            assert (status, body["message"]) == (400, "extraction point is not a directory")
            assert (await ask("GET", url))[0] == 400
            assert (await ask("GET", "/containers/nope/archive?path=/"))[0] == 404
            events = [e.action for e in node.engine.events.past if e.type == "container"]
            assert events.count("extract-to-dir") == 1

    asyncio.run(main())


def test_changes_and_exports(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "docker.sock") as (node, ask):
            container = await run_service(node, "sh", "-c", "sleep 60")
            (node.files.root(container) / "file").write_text("x")
            status, body, _ = await ask("GET", f"/containers/{container}/changes")
            assert (status, body) == (200, [
                {"Path": "/tmp", "Kind": 0}, {"Path": "/tmp/x", "Kind": 1}, {"Path": "/bin", "Kind": 2},
            ])  # fmt: skip
            status, body, headers = await ask("GET", f"/containers/{container}/export")
            assert (status, headers["Content-Type"]) == (200, "application/octet-stream")
            assert body.startswith("file\0")

    asyncio.run(main())


def test_one_sample_two_and_those_of_a_container_that_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "INTERVAL", 0.0)

    async def main() -> None:
        async with serving(tmp_path / "docker.sock") as (node, ask):
            container = await run_service(node, "sh", "-c", "sleep 60")
            url = f"/containers/{container}/stats?stream=false"
            _, one, _ = await ask("GET", url + "&one-shot=true")
            assert one["preread"] == "0001-01-01T00:00:00Z"
            assert one["cpu_stats"]["cpu_usage"]["total_usage"] == 5 * 10**8
            assert one["precpu_stats"]["cpu_usage"]["total_usage"] == 0
            assert one["networks"]["eth0"]["tx_bytes"] == 2000
            assert "percpu_usage" not in one["cpu_stats"]["cpu_usage"]
            _, two, _ = await ask("GET", url)
            used = two["cpu_stats"]["cpu_usage"]["total_usage"]
            assert used - two["precpu_stats"]["cpu_usage"]["total_usage"] == 5 * 10**8
            assert (await ask("GET", f"/containers/{container}/stats?one-shot=1"))[0] == 400
            await ask("POST", f"/containers/{container}/kill")
            await node.containers.wait(ContainerId(container))
            _, none, _ = await ask("GET", url)
            assert (none["id"], none["memory_stats"], none["pids_stats"]) == (container, {}, {})
            assert "networks" not in none

    asyncio.run(main())


def test_samples_come_until_the_container_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "INTERVAL", 0.01)

    async def main() -> None:
        path = tmp_path / "docker.sock"
        async with serving(path) as (node, ask):
            container = await run_service(node, "sh", "-c", "sleep 60")
            connector = aiohttp.UnixConnector(str(path))
            async with (
                aiohttp.ClientSession("http://docker", connector=connector) as session,
                session.get(f"/containers/{container}/stats") as response,
            ):
                samples = [json.loads(await response.content.readline()) for _ in range(3)]
                await ask("DELETE", f"/containers/{container}?force=1")
                async with asyncio.timeout(10):
                    while await response.content.readline():
                        pass
            assert samples[1]["preread"] == samples[0]["read"]

    asyncio.run(main())


def test_a_sample_is_shown_as_docker_shows_it() -> None:
    config = ContainerConfig(
        id=ContainerId("c" * 64), name="web", spec=ContainerSpec(image="i"), hostname="h", namespace=None,
    )  # fmt: skip
    usage = Usage(
        time=1_700_000_000 * 10**9,
        cpu=CpuUse(total=30, user=20, kernel=10, per_cpu=(10, 20), system=99, cpus=2, periods=3),
        memory=MemoryUse(usage=5, limit=9, most=7, details={"cache": 1}),
        processes=2,
        processes_limit=10,
        block_bytes=(BlockUse(8, 0, "Read", 4096),),
    )
    shown: Any = usage_json(Container(config=config, image="i", args=()), usage, None)
    assert shown["read"] == "2023-11-14T22:13:20Z"
    assert shown["cpu_stats"] == {
        "cpu_usage": {
            "total_usage": 30, "percpu_usage": (10, 20), "usage_in_kernelmode": 10, "usage_in_usermode": 20,
        },
        "system_cpu_usage": 99, "online_cpus": 2,
        "throttling_data": {"periods": 3, "throttled_periods": 0, "throttled_time": 0},
    }  # fmt: skip
    assert shown["memory_stats"] == {"usage": 5, "max_usage": 7, "stats": {"cache": 1}, "limit": 9}
    assert shown["pids_stats"] == {"current": 2, "limit": 10}
    assert shown["blkio_stats"]["io_service_bytes_recursive"] == [
        {"major": 8, "minor": 0, "op": "Read", "value": 4096}
    ]
