"""Members of etcd on loopback, with certificates of an authority of their own, as managers would
run them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from weft.errors import WeftError
from weft.model.cluster import RootCa
from weft.model.ids import ClusterId, NodeId
from weft.model.meta import SECOND
from weft.model.node import Role
from weft.model.state import ClusterState
from weft.pki import authority
from weft.store.etcd.engine import EtcdStore
from weft.store.etcd.migrate import copy
from weft.store.etcd.process import QUOTA, EtcdMember, MemberSettings

SWARM = ClusterId("swarm")
PORT = 23800


class EtcdCluster:
    """Members, 127.0.0.1 and so on; the n-th is called `m<n>`."""

    def __init__(self, directory: Path, quota: int = QUOTA) -> None:
        self.directory, self.quota = directory, quota
        self.root = authority.root(ec.generate_private_key(ec.SECP256R1()), time.time_ns(), 1)
        self.members: dict[str, EtcdMember] = {}
        self.stack = AsyncExitStack()

    def make(self, name: str, number: int) -> EtcdMember:
        swarm = self.directory / name / "swarm"
        swarm.mkdir(parents=True, exist_ok=True)
        address = f"127.0.0.{number}"
        certify(swarm, self.root, name, "manager", address)
        settings = MemberSettings(
            name=name,
            address=address,
            peer_port=PORT,
            swarm=swarm,
            run=self.directory / name / "run",
            quota=self.quota,
        )
        self.members[name] = EtcdMember(settings)
        return self.members[name]

    async def found(self) -> EtcdMember:
        first = self.make("m1", 1)
        await first.start()
        await first.ready()
        return first

    async def grow(self, name: str, number: int) -> EtcdMember:
        """As a node becomes a manager: enlisted, started, given its vote when it has caught up."""
        client = next(iter(self.members.values())).client()
        member = self.make(name, number)
        try:
            added = await eventually(lambda: client.add_learner(member.settings.peer_url))
            peers = [(each.name or name, each.peer_urls[0]) for each in await client.members()]
            await member.start(peers)
            await member.ready()
            await eventually(lambda: client.promote(added.id))
        finally:
            await client.close()
        return member

    async def begin(self, members: int) -> None:
        """So many, and an empty store."""
        await self.found()
        for number in range(2, members + 1):
            await self.grow(f"m{number}", number)
        client = self.members["m1"].client()
        await copy(ClusterState(), client)
        await client.close()

    async def store(self, name: str) -> EtcdStore:
        store = await EtcdStore.open(self.members[name].client(), time.time_ns)
        self.stack.push_async_callback(store.close)
        return store

    async def close(self) -> None:
        await self.stack.aclose()
        await asyncio.gather(*(member.wipe() for member in self.members.values()))


def certify(swarm: Path, root: RootCa, name: str, role: Role, address: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.issue(
        root,
        authority.request(key),
        authority.NodeCertificate(
            node=NodeId(name),
            role=role,
            cluster=SWARM,
            begin=time.time_ns(),
            lifetime=3600 * SECOND,
            serial=2,
            addresses=(IPv4Address(address),),
        ),
    )
    for file, text in (
        ("node.crt", certificate),
        ("node.key", authority.private_pem(key)),
        ("root.crt", root.certificate),
    ):
        (swarm / file).write_text(text)


T = TypeVar("T")


async def eventually(action: Callable[..., Awaitable[T]], seconds: float = 20.0) -> T:
    """Until it does not raise."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await action()
            except (WeftError, AssertionError):
                await asyncio.sleep(0.05)
