"""Encryption over any order of rotations, joins, leaves and restarts: every pair can talk, no
number twice, nothing in clear.

A swarm on the real rules of the managers' key loop and of each host's plan, on kernels in memory.
Hosts learn of new keys when they like, but before the rotation after the next; each operation of
each change is applied alone, and a packet traced after each.
"""

import asyncio
from ipaddress import IPv4Interface

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.swarms import Swarm
from weft.control import keys
from weft.esp.sequence import Reservations
from weft.linux.fake import FakeKernel
from weft.linux.fake_underlay import FakeUnderlay, Journey, Place
from weft.model.assignment import Assignment
from weft.model.cluster import Cluster, JoinTokens, RootCa
from weft.model.encryption import DataKey, Protection
from weft.model.ids import ClusterId, NetworkId, TaskId
from weft.model.network import Network, NetworkSpec
from weft.model.sandbox import NodeFacts
from weft.model.state import ClusterState
from weft.model.trace import ANY, Packet
from weft.network.diff import diff
from weft.network.encryption import protection
from weft.network.kernel_state import HOST, KernelState, Namespace, Vxlan
from weft.network.ownership import ESP_SANDBOX
from weft.network.plan import plan

HOSTS = 4
PERIOD = 12 * 3600 * 10**9
NOTHING = KernelState({HOST: Namespace(name=HOST)})
hosts = st.integers(1, HOSTS)


class Encrypted(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.swarm = Swarm(HOSTS)
        self.secret = self.swarm.network("secret", "10.40.0.0/24", encrypted=True)
        self.plain = self.swarm.network("plain", "10.50.0.0/24")
        cluster = Cluster(id=ClusterId("c"), root_ca=RootCa("", ""), join_tokens=JoinTokens("", ""))
        self.state = ClusterState(
            [cluster, Network(id=NetworkId("n"), spec=NetworkSpec(name="n", encrypted=True))]
        )
        self.now, self.made = 0, 0
        self.known: dict[int, tuple[DataKey, ...]] = {}
        """By host: the keys it has been told of."""
        self.tasks: dict[int, TaskId] = {}
        self.underlay = FakeUnderlay()
        for i in range(1, HOSTS + 1):
            address = IPv4Interface(f"{self.swarm.vtep(self.swarm.nodes[i - 1])}/24")
            self.underlay.join(f"node{i}", FakeKernel(address, self.swarm.underlay_mtu))
        self.ledgers = [Reservations() for _ in range(HOSTS)]
        self.used: dict[bytes, set[int]] = {}
        """By key: the first numbers of the blocks that were ever handed out under it."""
        self._rotate()

    # --- what happens

    @rule()
    def rotate(self) -> None:
        """After everybody who is on the network has got the newest key, as the period
        guarantees."""
        for host in self.tasks:
            self.learn(host)
        self._rotate()

    @rule(host=hosts)
    def learn(self, host: int) -> None:
        if host in self.tasks:
            assert self.state.cluster is not None
            self.known[host] = self.state.cluster.data_keys
            self._converge(host)

    @rule(host=hosts)
    @precondition(lambda self: len(self.tasks) < HOSTS)
    def join(self, host: int) -> None:
        if host not in self.tasks:
            [self.tasks[host]] = self.swarm.service(
                f"s{self.made}", self.secret, self.plain, on=[host]
            )
            self.made += 1
            self.learn(host)
            self._converge_all()

    @rule(host=hosts)
    def leave(self, host: int) -> None:
        if host in self.tasks:
            self.swarm.remove(self.tasks.pop(host))
            self.known.pop(host)
            self._converge_all()

    @rule(host=hosts)
    def reboot(self, host: int) -> None:
        """The kernel forgets everything; the disk does not."""
        address = IPv4Interface(f"{self.swarm.vtep(self.swarm.nodes[host - 1])}/24")
        self.underlay.hosts[f"node{host}"] = FakeKernel(address, self.swarm.underlay_mtu)
        self._converge(host)
        self._engine(host)

    @rule(host=hosts)
    def flush(self, host: int) -> None:
        """Somebody flushes nftables: nothing of the encrypted network may leave in clear even
        before the repair."""
        self.underlay.hosts[f"node{host}"].flush_tables(HOST)
        self._look()
        self._converge(host)

    # --- what must hold

    @invariant()
    def every_pair_can_talk(self) -> None:
        own = {host: self._protection(host) for host in self.tasks}
        for host, mine in own.items():
            for other, theirs in own.items():
                if host == other:
                    continue
                [sending] = [a for a in mine.outbound if a.destination == theirs.local]
                assert sending in theirs.inbound, (
                    f"node{other} would not open what node{host} seals"
                )

    @invariant()
    def what_is_sent_arrives_sealed(self) -> None:
        for host, task in self.tasks.items():
            for other in self.tasks:
                if other != host:
                    journey = self._trace(host, task, other)
                    assert journey.end == "delivered"
                    assert journey.did("encrypted")

    # ---

    def _rotate(self) -> None:
        self.now += PERIOD
        for change in keys.reconcile(self.state, self.now, self._secret).changes:
            self.state.apply([change], self.now)

    def _secret(self, length: int) -> bytes:
        self.made += 1
        return self.made.to_bytes(length, "big")

    def _assignment(self, host: int) -> Assignment:
        return msgspec.structs.replace(self.swarm.assignment(host), keys=self.known.get(host, ()))

    def _facts(self, host: int) -> NodeFacts:
        return msgspec.structs.replace(self.swarm.facts(host), esp_engine="userspace")

    def _protection(self, host: int) -> Protection:
        found = protection(self._assignment(host), self._facts(host))
        assert found is not None
        return found

    def _engine(self, host: int) -> None:
        """What an engine that starts does before it sends: takes a block of numbers for each
        key."""
        if host not in self.tasks:
            return
        outbound = self._protection(host).outbound
        self.ledgers[host - 1], blocks = self.ledgers[host - 1].reserve(outbound)
        for association, block in zip(outbound, blocks, strict=True):
            first = self.used.setdefault(association.key, set())
            assert block.next not in first, "a sequence number twice under one key"
            first.add(block.next)

    def _converge_all(self) -> None:
        for host in range(1, HOSTS + 1):
            self._converge(host)

    def _converge(self, host: int) -> None:
        """Each operation alone, and a look after each."""
        kernel = self.underlay.hosts[f"node{host}"]
        desired = plan(self._assignment(host), self._facts(host), self.swarm.residents(host))

        async def run() -> None:
            for operation in diff(await kernel.read(desired), desired):
                await kernel.apply([operation])
                self._look()
            assert diff(await kernel.read(desired), desired) == []

        asyncio.run(run())
        self._engine(host)

    def _look(self) -> None:
        """No device of the encrypted network has its socket where a datagram could reach the wire
        unsealed."""
        [vni] = [s.vni for s in self.swarm.definitions[self.secret].segments]
        for kernel in self.underlay.hosts.values():
            for namespace in kernel.state().namespaces.values():
                for link in namespace.links.values():
                    if isinstance(link.kind, Vxlan) and link.kind.vni == vni:
                        assert link.kind.socket == ESP_SANDBOX

    def _trace(self, host: int, task: TaskId, other: int) -> Journey:
        target = next(
            e.address.ip
            for e in self.swarm.endpoints[self.secret].values()
            if e.task == self.tasks[other]
        )
        sandbox = self.swarm.sandbox(task)
        journey = self.underlay.trace(
            Packet("tcp", ANY, 40000, target, 80), Place(f"node{host}", sandbox.key)
        )
        shown = {packet.protocol for packet in journey.shown_at(Place(f"node{host}", HOST))}
        assert shown <= {"esp"}, "in clear on the underlay"
        return journey


TestEncrypted = Encrypted.TestCase
TestEncrypted.settings = settings(
    max_examples=25, stateful_step_count=12, suppress_health_check=[HealthCheck.too_slow]
)
