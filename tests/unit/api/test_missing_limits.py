"""Who asks for a limit that the host's kernel does not have is told so, and inspect does not show the
limit."""

import asyncio
import json
from pathlib import Path

import msgspec

from tests.support.fake_images import IMAGE
from tests.unit.api.served import serving
from weft.model.optional_limit import OptionalLimit

NO_WEIGHT = (
    "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
)


def test_a_limit_that_is_discarded_is_told_of_and_not_shown(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path / "s") as (node, ask):
            missing = frozenset({OptionalLimit.WEIGHT, OptionalLimit.SWAPPINESS})
            node.info = msgspec.structs.replace(node.info, missing_limits=missing)
            host = {"BlkioWeight": 100, "MemorySwappiness": 5, "CpuShares": 7}
            body = json.dumps({"Image": IMAGE, "HostConfig": host}).encode()
            status, made, _ = await ask("POST", "/containers/create?name=web", body)
            assert status == 201
            assert len(made["Warnings"]) == 2
            assert NO_WEIGHT in made["Warnings"]
            _, shown, _ = await ask("GET", "/containers/web/json")
            limits = {name: shown["HostConfig"][name] for name in host}
            assert limits == {"BlkioWeight": 0, "MemorySwappiness": None, "CpuShares": 7}

            for asked, warnings in (({"BlkioWeight": 50}, [NO_WEIGHT]), ({"CpuShares": 9}, None)):
                body = json.dumps(asked).encode()
                _, updated, _ = await ask("POST", "/containers/web/update", body)
                assert updated == {"Warnings": warnings}
            _, shown, _ = await ask("GET", "/containers/web/json")
            assert (shown["HostConfig"]["BlkioWeight"], shown["HostConfig"]["CpuShares"]) == (0, 9)

    asyncio.run(scenario())
