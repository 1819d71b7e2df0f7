"""A manager's state is put back as it was: who has heard of a later one has to be told that it
counts again."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from tests.support.members import Host, until
from weft.model.network import NetworkSpec

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def test_an_older_state_counts_only_if_it_is_begun_anew(tmp_path: Path) -> None:
    async def main() -> None:
        manager, worker = Host(tmp_path, 21, None), Host(tmp_path, 22, None)
        try:
            await manager.init()
            await manager.manager.swarm.create_network(NetworkSpec(name="kept"))
            await worker.join(manager.listen, (await manager.manager.swarm.join_tokens()).worker)
            await until(lambda: worker.up.agent.uplink.connected)
            await manager.stop()
            shutil.copytree(manager.environment.data, tmp_path / "copy", symlinks=True)

            await manager.resume()
            assert not (manager.environment.data / "etcd").exists(), "one manager alone needs none"
            await manager.up.go_on_alone()
            await worker.stop()
            await worker.resume()
            await until(lambda: worker.up.member.epoch == 1)

            await manager.stop()
            shutil.rmtree(manager.environment.data)
            shutil.copytree(tmp_path / "copy", manager.environment.data, symlinks=True)
            await manager.resume()
            await until(lambda: "has begun epoch 1 without it" in worker.up.agent.uplink.error)
            assert not worker.up.agent.uplink.connected

            await manager.up.go_on_alone()
            await until(lambda: worker.up.agent.uplink.connected)
            assert "kept" in {
                network.spec.name for network in manager.manager.swarm.state.networks.values()
            }
        finally:
            await worker.stop()
            await manager.stop()

    asyncio.run(main())
