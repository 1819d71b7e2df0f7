"""The certificate authority's keys and the join tokens are sealed in the store, whatever made or
changed them, and managers do with them what they did before."""

import asyncio
from pathlib import Path

import pytest

from tests.support import virtual_time
from tests.support.certified import Swarm, ready, rotate, settled, swarm
from tests.support.members import Host, until
from weft.errors import Unavailable
from weft.model.state import KINDS, ClusterState
from weft.pki.stored_secrets import has_clear


class Watched:
    """All that was committed since."""

    def __init__(self, cluster: Swarm) -> None:
        self.store, self.changes = cluster.store, cluster.store.subscribe(KINDS)
        self.clear = 0

    async def run(self) -> None:
        while True:
            await self.changes.next()
            self.clear += self.shows(self.store.state)

    @staticmethod
    def shows(state: ClusterState) -> bool:
        return state.cluster is not None and has_clear(state.cluster)


def test_what_an_earlier_version_has_stored_is_sealed_and_stays_so() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=1) as cluster:
            await cluster.until(lambda: ready(cluster))
            await cluster.until(lambda: not has_clear(cluster.manager.swarm.cluster))
            watched = Watched(cluster)
            watching = asyncio.create_task(watched.run())
            before = await cluster.manager.swarm.join_tokens()
            now = cluster.manager.swarm.cluster
            await cluster.manager.swarm.update_cluster(now.meta.version, now.spec, True, False)
            after = await cluster.manager.swarm.join_tokens()
            assert after.worker != before.worker
            assert after.manager == before.manager
            await cluster.join("manager")
            old = cluster.manager.swarm.cluster.root_ca.certificate
            await rotate(cluster)
            assert cluster.manager.swarm.cluster.rotation is not None
            new = cluster.manager.swarm.cluster.rotation.root_ca.certificate
            await cluster.until(lambda: settled(cluster, new))
            assert new != old
            assert (await cluster.manager.swarm.join_tokens()).worker != after.worker
            await cluster.join()
            watching.cancel()
            assert watched.clear == 0

    virtual_time.run(main())


def test_a_new_swarm_never_has_them_in_clear_on_its_disk(tmp_path: Path) -> None:
    """And a manager whose key was lost goes on, but issues nothing, until it has the key again."""

    async def main() -> None:
        host, worker = Host(tmp_path, 1, None), Host(tmp_path, 2, None)
        await host.init()
        tokens, data = await host.manager.swarm.join_tokens(), host.environment.data
        assert tokens.worker.startswith("SWMTKN-1-")
        files = list(data.glob("store.db*"))
        assert files
        for file in files:
            content = file.read_bytes()
            assert b"PRIVATE KEY" not in content, file
            assert b"SWMTKN" not in content, file
        await host.stop()
        key = data / "sealing-keys"
        key.rename(data / "elsewhere")
        await host.resume()
        await until(lambda: host.up.agent.uplink.connected)
        with pytest.raises(Unavailable, match="does not have the swarm's sealing key"):
            await host.manager.swarm.join_tokens()
        with pytest.raises(Unavailable, match="cannot admit a node"):
            await worker.join(host.listen, tokens.worker)
        await host.stop()
        (data / "elsewhere").rename(key)
        await host.resume()
        await worker.join(host.listen, tokens.worker)
        await until(lambda: worker.up.agent.uplink.connected)
        await worker.stop()
        await host.stop()

    asyncio.run(main())
