"""The key that seals secrets: how managers get it, and what they do without it. Each manager has a
disk of its own; the state is one for all."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec
import pytest

from tests.support import virtual_time
from weft.errors import OperationFailed, Unavailable
from weft.manager.ports import ManagerPorts
from weft.manager.registry_auths import RegistryAuths
from weft.manager.vault import KeysInMemory, Vault
from weft.model.cluster import Cluster, JoinTokens, RootCa
from weft.model.ids import ClusterId, NodeId, SecretId, ServiceId
from weft.model.leadership_status import LeadershipStatus
from weft.model.node import Node, NodeSpec
from weft.model.registry import PullAuth, RegistryAuth, SealedAuth
from weft.model.secret import DataSpec, Secret
from weft.model.service import ContainerSpec, Service, ServiceSpec, TaskSpec
from weft.model.state import Put, Remove
from weft.pki.sealing import SealingKey
from weft.store.memory import MemoryStore

DATA = b"hunter2"


class Leadership:
    def __init__(self, leader: str) -> None:
        self.leadership_status = LeadershipStatus(NodeId(leader), frozenset())

    async def next(self, seen: LeadershipStatus) -> LeadershipStatus:
        raise NotImplementedError

    async def resign(self) -> None: ...

    async def close(self) -> None: ...


class Managers:
    """Managers by name, which ask each other."""

    def __init__(self) -> None:
        self.store = MemoryStore(virtual_time.clock)
        self.vaults: dict[str, Vault] = {}
        self.running: list[asyncio.Task[None]] = []
        self.silent: set[str] = set()
        self.count = 0

    async def begin(self) -> None:
        tokens = JoinTokens("", "")
        cluster = Cluster(id=ClusterId("c"), root_ca=RootCa("", ""), join_tokens=tokens)
        await self.store.commit([Put(cluster)])

    def entropy(self, size: int) -> bytes:
        self.count += 1
        return self.count.to_bytes(size, "big")

    async def ask(self, address: str) -> Sequence[SealingKey]:
        if address in self.silent or address not in self.vaults:
            raise Unavailable(f"manager {address} does not answer")
        return self.vaults[address].keys

    async def start(
        self, name: str, leads: bool = False, disk: KeysInMemory | None = None
    ) -> Vault:
        if name not in self.store.state.nodes:
            node = Node(id=NodeId(name), spec=NodeSpec(role="manager"), manager_address=name)
            await self.store.commit([Put(node)])
        ports = ManagerPorts(
            clock=virtual_time.clock,
            entropy=self.entropy,
            authority=None,  # type: ignore[arg-type]
            sealing_keys=disk if disk is not None else KeysInMemory(),
            ask_keys=self.ask,
        )
        vault = Vault(NodeId(name), self.store, Leadership(name if leads else ""), ports)
        self.vaults[name] = vault
        self.running.append(asyncio.create_task(vault.run()))
        return vault

    async def close(self) -> None:
        for task in self.running:
            task.cancel()
        await asyncio.wait(self.running)
        await self.store.close()


def scene(play: Callable[[Managers], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            managers = Managers()
            await managers.begin()
            try:
                await play(managers)
            finally:
                await managers.close()

        virtual_time.run(main())

    run.__name__, run.__doc__ = play.__name__, play.__doc__
    return run


async def secret(vault: Vault) -> Secret:
    sealed = await vault.seal("s1", DATA)
    return Secret(id=SecretId("s1"), spec=DataSpec(name="db"), sealed=sealed)


@scene
async def test_the_leader_makes_the_key_and_every_manager_can_read(managers: Managers) -> None:
    first = await managers.start("m1", leads=True)
    sealed = await secret(first)
    for name in ("m2", "m3"):
        later = await managers.start(name)
        await asyncio.sleep(1)
        assert later.opened(sealed) == DATA
        assert later.keys == first.keys
    assert DATA not in repr(managers.store.state.cluster).encode()
    state = managers.store.state
    assert state.cluster is not None
    assert state.cluster.sealing_key == first.keys[0].id
    assert first.keys[0].secret.hex() not in str(list(state.objects()))


@scene
async def test_a_manager_goes_on_asking_until_somebody_answers(managers: Managers) -> None:
    first = await managers.start("m1", leads=True)
    sealed = await secret(first)
    managers.silent.add("m1")
    woken: list[bool] = []
    second = await managers.start("m2")
    second.on_key(lambda: woken.append(True))
    await asyncio.sleep(100)
    assert second.payload(sealed) is None
    with pytest.raises(OperationFailed, match="this manager does not have its sealing key"):
        second.opened(sealed)
    with pytest.raises(Unavailable, match="does not have the swarm's sealing key"):
        await second.seal("s2", DATA)
    managers.silent.clear()
    await asyncio.sleep(31)
    assert woken == [True]
    payload = second.payload(sealed)
    assert payload is not None
    assert payload.data == DATA
    assert second.payload(sealed) is payload


@scene
async def test_a_key_that_is_lost_everywhere_is_not_replaced_in_silence(managers: Managers) -> None:
    sealed = await secret(await managers.start("m1", leads=True))
    await managers.store.commit([Put(sealed)])
    lost = managers.vaults.pop("m1").keys
    managers.running[0].cancel()
    again = await managers.start("m1", leads=True)
    await asyncio.sleep(100)
    assert again.keys == ()
    await managers.store.commit([Remove("secret", "s1", managers.store.state.revision)])
    await asyncio.sleep(61)
    assert len(again.keys) == 1
    assert again.keys != lost
    assert again.opened(await secret(again)) == DATA


@scene
async def test_a_name_that_was_dropped_gets_the_old_key_again(managers: Managers) -> None:
    """As a manager of an earlier version does, which does not know the field."""
    first = await managers.start("m1", leads=True)
    sealed = await secret(first)
    cluster = managers.store.state.cluster
    assert cluster is not None
    await managers.store.commit([Put(msgspec.structs.replace(cluster, sealing_key=""))])
    await asyncio.sleep(1)
    assert len(first.keys) == 1
    assert managers.store.state.cluster is not None
    assert managers.store.state.cluster.sealing_key == first.keys[0].id
    assert first.opened(sealed) == DATA


@scene
async def test_of_two_leaders_one_key_counts_and_both_get_it(managers: Managers) -> None:
    one, two = await managers.start("m1", leads=True), await managers.start("m2", leads=True)
    await asyncio.sleep(60)
    assert two.opened(await secret(one)) == DATA
    assert one.opened(await secret(two)) == DATA


@scene
async def test_credentials_of_a_service_are_sealed_for_it_and_its_registry(
    managers: Managers,
) -> None:
    first = await managers.start("m1", leads=True)
    auths = RegistryAuths(first)
    mine = RegistryAuth(username="me", password="hunter2")
    assert await auths.seal(ServiceId("a"), "reg.test/app:1", RegistryAuth()) is None
    sealed = await auths.seal(ServiceId("a"), "reg.test/app:1", mine)
    assert sealed is not None
    assert sealed.registry == "reg.test"
    assert b"hunter2" not in sealed.sealed.text

    def opened(id: str, auth: SealedAuth, by: RegistryAuths) -> PullAuth | None:
        task = TaskSpec(container=ContainerSpec(image="reg.test/app:1"))
        spec = ServiceSpec(name=id, task=task)
        return by.opened(Service(id=ServiceId(id), spec=spec, registry_auth=auth))

    known = opened("a", sealed, auths)
    assert known is not None
    assert (known.registry, known.auth) == ("reg.test", mine)
    assert opened("b", sealed, auths) is None, "another service's"
    elsewhere = SealedAuth("evil.test", sealed.sealed)
    assert opened("a", elsewhere, auths) is None, "for another registry"
    second = RegistryAuths(await managers.start("m2"))
    assert opened("a", sealed, second) is None, "without the key"
    await asyncio.sleep(1)
    assert opened("a", sealed, second) == known
