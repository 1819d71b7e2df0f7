"""A whole swarm in virtual time: real managers, real agents, and everything between them that can
go wrong.

    async with SimCluster.of(directory, managers=3, workers=2, seed=7) as cluster:
        id = await cluster.ask(lambda manager: manager.swarm.create_service(spec))
        cluster.isolate("node2")
        await cluster.hosts["node3"].kill()
        ...
        await cluster.settle(120)

Whatever happens is decided by the arguments and the seed: the same run again is the same run. (With
the same PYTHONHASHSEED: sets of strings are gone through in its order.) `Invariants` sees every
commit, and every quarter of a second what runs where.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tests.simulation.convergence import differences
from tests.simulation.host import SimHost
from tests.simulation.invariants import Invariants
from tests.simulation.network import SimNetwork
from tests.simulation.processes import OUTSIDE, Processes
from tests.simulation.store import SimDisk, SimEtcd
from tests.support import virtual_time
from weft.errors import Unavailable, WeftError
from weft.manager.authority import PkiAuthority
from weft.manager.bootstrap import Founder, create_swarm
from weft.manager.manager import Manager
from weft.model.container import Container
from weft.model.membership import InitRequest
from weft.model.node import NodeDescription, Role
from weft.model.state import ClusterState, Put
from weft.pki import authority
from weft.session.base import AdmissionRequest
from weft.session.identity import Credentials
from weft.store.etcd.migrate import copy
from weft.store.memory import MemoryStore

T = TypeVar("T")

ANSWER = 25.0
"""Seconds that a user waits for an answer."""
OBSERVE = 0.25
STABLE = 3.0
"""Seconds for which nothing may be missing any more."""


class SimCluster:
    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.rng = random.Random(seed)
        self.processes = Processes()
        self.network = SimNetwork(self.processes)
        self.invariants = Invariants(self.running)
        self.hosts: dict[str, SimHost] = {}
        self.crashes: list[str] = []
        """What ended by itself and should not."""
        self.etcd: SimEtcd | None = None
        self.disk: SimDisk | None = None

    @classmethod
    @asynccontextmanager
    async def of(
        cls, directory: Path, managers: int, workers: int, seed: int = 0
    ) -> "AsyncIterator[SimCluster]":
        """With one manager its store is on its disk; with more they share an etcd."""
        cluster = cls(directory, seed)
        observing = cluster.processes.spawn(OUTSIDE, cluster._observe())
        try:
            await cluster._found(alone=managers == 1)
            for _ in range(managers - 1):
                await cluster.join("manager")
                await cluster.until(
                    lambda: all(host.manager is not None for host in cluster.managers), 30
                )
            for _ in range(workers):
                await cluster.join("worker")
            await cluster.until(lambda: not cluster.differences(), 60)
            yield cluster
        finally:
            observing.cancel()
            await cluster._end()

    # --- what there is

    @property
    def managers(self) -> list[SimHost]:
        return [host for host in self.hosts.values() if host.is_manager]

    @property
    def members(self) -> list[SimHost]:
        """Hosts that are part of the swarm, as far as they know."""
        return [host for host in self.hosts.values() if host.identity is not None]

    @property
    def state(self) -> ClusterState:
        """What is committed."""
        return ClusterState(self.invariants.objects.values(), self.invariants.revision)

    def running(self) -> list[tuple[str, Container]]:
        """All containers that run, with the names of their hosts."""
        return [
            (host.name, container)
            for host in self.hosts.values()
            for container in host.runtime.running()
        ]

    def differences(self) -> list[str]:
        """What is not as the specs say."""
        return differences(self.state, list(self.hosts.values()))

    def check(self) -> None:
        assert not self.invariants.violations, self.invariants.violations
        assert not self.crashes, self.crashes

    # --- what users do

    async def ask(self, operation: Callable[[Manager], Coroutine[Any, Any, T]], at: str = "") -> T:
        """Through one of the managers. Raises what the manager raises, and `Unavailable` if it does
        not answer: then nobody can tell whether it was done."""
        answering = [
            host for host in self.managers if host.manager is not None and at in ("", host.name)
        ]
        if not answering:
            raise Unavailable("no manager answers")
        host = self.rng.choice(answering)
        assert host.manager is not None
        asked = self.processes.spawn(host.name, operation(host.manager))
        await asyncio.wait((asked,), timeout=ANSWER)
        if not asked.done() or asked.cancelled():
            raise Unavailable(f"{host.name} does not answer")
        result: T = asked.result()
        return result

    async def insist(
        self, operation: Callable[[Manager], Coroutine[Any, Any, T]], seconds: float = 60.0
    ) -> T:
        """Until it is done."""
        end = self.now() + seconds
        while True:
            try:
                return await self.ask(operation)
            except WeftError:
                if self.now() > end:
                    raise
                await asyncio.sleep(1)

    async def join(self, role: Role, host: SimHost | None = None) -> SimHost:
        """A new host, or one that has left."""
        if host is None:
            host = self._host()
        key, address, name = authority.make_key(self.rng.randbytes), host.address, host.name

        csr = authority.request(key)

        async def admitted(manager: Manager) -> Any:
            tokens = await manager.swarm.join_tokens()
            token = tokens.manager if role == "manager" else tokens.worker
            request = AdmissionRequest(
                token=token,
                csr=csr,
                hostname=name,
                data_path_address=address,
                advertise_address=str(address),
            )
            return await manager.admit(request)

        answer = await self.insist(admitted)
        host.hold(
            Credentials(answer.certificate, authority.private_pem(key), answer.root_certificate)
        )
        host.managers = answer.managers
        host.start()
        return host

    # --- what goes wrong

    def isolate(self, name: str) -> None:
        """No other host can be reached from it."""
        self.network.isolated.add(name)
        if self.etcd is not None and self.etcd.has(name):
            self.etcd.cut(name)

    def heal(self, name: str) -> None:
        self.network.isolated.discard(name)
        if self.etcd is not None and self.etcd.has(name):
            self.etcd.heal(name)

    async def power_off(self, name: str) -> None:
        await self.hosts[name].power_off()
        if self.etcd is not None and self.etcd.has(name):
            self.etcd.stop(name)

    def power_on(self, name: str) -> None:
        host = self.hosts[name]
        host.power_on()
        if self.etcd is not None and self.etcd.has(name):
            self.etcd.start(name)
        if host.identity is not None and not host.is_up:
            host.start()

    def repair(self) -> None:
        """Nothing is wrong any more from now on."""
        self.network.heal_all()
        for host in self.hosts.values():
            self.heal(host.name)
            if host.name in self.network.off:
                self.power_on(host.name)
            elif host.identity is not None and not host.is_up:
                host.start()
        for member in self.etcd.roster if self.etcd is not None else ():
            member.latency, member.lost = 0.001, []
        if self.disk is not None:
            self.disk.full = False

    # --- time

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def until(self, condition: Callable[[], object], seconds: float) -> None:
        end = self.now() + seconds
        while not condition():
            self.check()
            assert self.now() < end, f"not within {seconds} s: {self.differences()}"
            await asyncio.sleep(0.1)
        self.check()

    async def settle(self, seconds: float) -> None:
        """Nothing goes wrong any more: all is as the specs say within that time, and stays so."""
        end = self.now() + seconds
        while True:
            await self.until(lambda: not self.differences(), end - self.now())
            quiet = self.now() + STABLE
            while self.now() < quiet and not self.differences():
                await asyncio.sleep(OBSERVE)
            if not self.differences():
                return self.check()

    # ---

    def _host(self) -> SimHost:
        host = SimHost(
            len(self.hosts) + 1,
            self.directory,
            self.processes,
            self.network,
            self._part(),
            random.Random(self.rng.getrandbits(64)),
            lambda error: self.crashes.append(repr(error)),
            self.invariants.assigned,
        )
        host.peers = lambda address: next(
            (h for h in self.hosts.values() if h.listens_at == address), None
        )
        self.hosts[host.name] = host
        return host

    def _part(self) -> SimEtcd | SimDisk:
        part = self.etcd or self.disk
        assert part is not None
        return part

    async def _found(self, alone: bool) -> None:
        clock, seen = virtual_time.clock, self.invariants.committed
        if alone:
            self.disk = SimDisk(lambda: self.hosts["node1"].clock(), seen)
        else:
            self.etcd = SimEtcd(["node1"], lambda name: self.hosts[name].clock, seen)
        host = self._host()
        host.store = "alone" if alone else "shared"
        root_key, key = (authority.make_key(self.rng.randbytes) for _ in range(2))
        root = authority.root(root_key, clock(), authority.make_serial(self.rng.randbytes))
        founder = Founder(
            description=NodeDescription(hostname=host.name),
            data_path_address=host.address,
            manager_address=host.listens_at,
        )
        store = self.disk.store() if self.disk is not None else MemoryStore(clock)
        cluster, node = await create_swarm(
            store, InitRequest(), founder, root, PkiAuthority(), self.rng.randbytes
        )
        if self.etcd is not None:
            await store.commit([Put(msgspec.structs.replace(node, store_peer=host.peer_url))])
            await copy(store.state, self.etcd.client(host.name))
        certificate = authority.issue(
            root,
            authority.request(key),
            authority.NodeCertificate(
                node=node.id,
                role="manager",
                cluster=cluster.id,
                begin=clock(),
                lifetime=cluster.spec.certificate_expiry,
                serial=authority.make_serial(self.rng.randbytes),
                addresses=(host.address,),
            ),
        )
        host.hold(Credentials(certificate, authority.private_pem(key), root.certificate))
        host.managers = ((node.id, host.listens_at),)
        host.start()
        await self.until(lambda: host.manager is not None, 30)

    async def _observe(self) -> None:
        while True:
            await asyncio.sleep(OBSERVE)
            self.invariants.observe()

    async def _end(self) -> None:
        self.network.close()
        for host in self.hosts.values():
            await self.processes.kill(host.name)
