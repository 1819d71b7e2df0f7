"""Sizes: of images, containers and volumes, all together and one by one."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from tests.unit.api.served import run_service, serving
from weft.api.schema.common import parse_until
from weft.errors import InvalidArgument
from weft.model.meta import SECOND


def test_disk_usage_has_all_kinds_or_those_that_are_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "docker.sock") as (node, ask):
            container = await run_service(node, "sh", "-c", "sleep 60")
            await ask("POST", "/volumes/create", b'{"Name": "data"}')
            images = node.image_store.images
            images[0] = msgspec.structs.replace(images[0], layers=("sha256:" + "a" * 64,))
            images.append(
                msgspec.structs.replace(images[0], id="sha256:" + "b" * 64, tags=("other:1",))
            )
            status, body, _ = await ask("GET", "/system/df")
            assert (status, body["LayersSize"]) == (200, 12_345_678)
            assert {i["Id"]: (i["SharedSize"], i["Containers"]) for i in body["Images"]} == {
                images[0].id: (12_345_678, 1),
                images[1].id: (12_345_678, 0),
            }
            [row] = body["Containers"]
            assert (row["Id"], row["SizeRw"], row["SizeRootFs"]) == (container, 12, 12_345_690)
            [volume] = body["Volumes"]
            assert (volume["Name"], volume["UsageData"]) == ("data", {"Size": 0, "RefCount": 0})
            assert body["BuildCache"] == []
            _, part, _ = await ask("GET", "/system/df?type=volume&type=build-cache")
            assert (part["Images"], part["Containers"], len(part["Volumes"])) == (None, None, 1)
            assert (await ask("GET", "/system/df?type=nonsense"))[0] == 400
            assert "BuilderSize" in (await ask("GET", "/v1.41/system/df"))[1]
            assert "BuilderSize" not in body

    asyncio.run(main())


def test_a_container_shows_its_size_if_it_is_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "docker.sock") as (node, ask):
            container = await run_service(node, "sh", "-c", "sleep 60")
            for url in (f"/containers/{container}/json", "/containers/json"):
                _, plain, _ = await ask("GET", url)
                _, sized, _ = await ask("GET", f"{url}?size=1")
                plain, sized = (x[0] if isinstance(x, list) else x for x in (plain, sized))
                assert "SizeRw" not in plain
                assert (sized["SizeRw"], sized["SizeRootFs"]) == (12, 12_345_690)

    asyncio.run(main())


def test_images_and_networks_can_be_chosen_by_their_age(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "docker.sock") as (_, ask):
            for name in ("old", "new"):
                body = {"Name": name, "Driver": "overlay", "Labels": {"x": name}}
                assert (await ask("POST", "/networks/create", json.dumps(body).encode()))[0] == 201
            past, future = '{"until":["1h"]}', '{"until":["2200-01-01T00:00:00Z"]}'
            assert (await ask("GET", f"/images/json?filters={past}"))[1] == []
            assert len((await ask("GET", f"/images/json?filters={future}"))[1]) == 1
            url = "/networks/prune?filters="
            assert (await ask("POST", url + past))[1] == {"NetworksDeleted": None}
            assert (await ask("POST", url + '{"label!":["x=old"],"label":["x"]}'))[1] == {
                "NetworksDeleted": ["new"]
            }
            assert (await ask("POST", url + future))[1] == {"NetworksDeleted": ["old"]}
            assert (await ask("POST", url + '{"until":["1h","2h"]}'))[0] == 400

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("10s", 90), ("1m10s", 30), ("1.5m", 10), ("1h", 0), ("50", 50), ("1970-01-01T00:00:07Z", 7),
    ],
)  # fmt: skip
def test_a_filters_moment_is_a_time_or_an_age(text: str, moment: int) -> None:
    assert parse_until(text, 100 * SECOND) == moment * SECOND


@pytest.mark.parametrize("text", ["10x", "s", "1m10", "1" * 100 + "s", "-1h"])
def test_other_moments_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_until(text, 100 * SECOND)
