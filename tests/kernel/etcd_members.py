"""Members of a real etcd on loopback, with the stores and leaderships that tests open on them."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.support.etcd_cluster import EtcdCluster
from weft.errors import Unavailable, WeftError
from weft.model.ids import NetworkId
from weft.model.network import Network, NetworkSpec
from weft.model.state import Put
from weft.store.etcd.engine import EtcdStore
from weft.store.etcd.process import QUOTA


def network(name: str) -> Network:
    return Network(id=NetworkId(f"id-{name}"), spec=NetworkSpec(name=name))


class Cluster(EtcdCluster):
    def kill(self, name: str) -> int:
        """Gives its pid."""
        process = self.members[name]._process
        assert process is not None
        process.kill(signal.SIGKILL)
        return process.pid

    def is_another(self, name: str, pid: int) -> bool:
        """It was started again."""
        process = self.members[name]._process
        return process is not None and process.pid != pid

    async def leader(self) -> str:
        """The member that leads etcd."""
        for name, member in self.members.items():
            client = member.client()
            try:
                status = await client.status()
                if status.leader == status.member:
                    return name
            except WeftError:
                continue
            finally:
                await client.close()
        raise Unavailable("no leader")


async def until(condition: Callable[..., bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def run(
    directory: Path,
    main: Callable[[Cluster], Awaitable[None]],
    members: int = 3,
    quota: int = QUOTA,
) -> None:
    async def body() -> None:
        cluster = Cluster(directory, quota)
        try:
            await cluster.begin(members)
            await main(cluster)
        finally:
            await cluster.close()

    asyncio.run(body())


async def put(store: EtcdStore, name: str) -> int:
    return await store.commit([Put(network(name))])


async def put_once(store: EtcdStore, name: str) -> None:
    """An answer that was lost is not a commit that was lost."""
    if f"id-{name}" not in store.state.networks:
        await put(store, name)
