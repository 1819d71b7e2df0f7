"""Workers refuse managers whose certificates were revoked: told in a session, or by asking another
manager; over a restart; and connections that stand end. Over TLS on loopback, and at the end in
virtual time."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from tests.support import virtual_time
from tests.support.certified import HOUR, free_port
from tests.support.members import Host, until
from weft.agent import revocations
from weft.agent.adapters import RevocationAdapters
from weft.agent.revocations import MOST_ASKED, PERIOD, ManagerRevoked, RevocationWatch
from weft.errors import Forbidden, Unavailable
from weft.model.certificate import ManagerCertificate
from weft.model.ids import NodeId
from weft.model.meta import SECOND
from weft.model.state import Put
from weft.pki import authority
from weft.session.base import ManagerSession, SessionClosed, StreamSource
from weft.session.fake import MemoryAgentSession, session_pair
from weft.session.identity import Credentials, CredentialSource
from weft.session.messages import Heartbeat, Welcome
from weft.session.revocations import RevocationClient, Revocations
from weft.session.server import SessionServer
from weft.session.tls import none_known

SERIAL = 0xBAD
FORMER = f"{SERIAL:x}"
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
each_loop = pytest.mark.parametrize("loop", list(LOOPS))


class Captor:
    """A former manager with its old key, as a `session.base.Manager`: it keeps whoever comes, and
    names no manager but itself."""

    is_serving = True
    epoch = 0

    def __init__(self, address: str) -> None:
        self.address = address
        self.held: list[str] = []
        """Nodes with a session."""
        self.reads = False
        """It reads a stream."""

    def knows(self, address: str) -> bool:
        return True

    async def serve(self, session: ManagerSession) -> None:
        await session.receive()
        managers = ((NodeId("captor"), self.address),)
        await session.send(Welcome(heartbeat=SECOND, managers=managers))
        self.held.append(session.peer.node)
        try:
            while True:
                if isinstance(await session.receive(), Heartbeat):
                    await session.send(Heartbeat())
        finally:
            self.held.remove(session.peer.node)

    async def take_stream(self, source: StreamSource, subscription: str) -> None:
        try:
            self.reads = True
            while True:
                await source.receive()
        except SessionClosed:
            self.reads = False


@asynccontextmanager
async def captor(host: Host, founder: Host) -> AsyncIterator[Captor]:
    cluster, key = founder.manager.swarm.cluster, authority.make_key(os.urandom)
    content = authority.NodeCertificate(
        node=NodeId("captor"),
        role="manager",
        cluster=cluster.id,
        serial=SERIAL,
        begin=time.time_ns(),
        lifetime=HOUR,
    )
    certificate = authority.issue(
        founder.open_root(cluster.root_ca), authority.request(key), content
    )
    credentials = Credentials(certificate, authority.private_pem(key), cluster.root_ca.certificate)
    own = Captor(f"127.0.0.77:{free_port()}")
    server = SessionServer(own, cluster.id, CredentialSource(credentials, lambda _: None))  # type: ignore[arg-type]
    await server.start(own.address)
    try:
        yield own
    finally:
        await server.close()


async def revoke(founder: Host) -> None:
    cluster = founder.manager.swarm.cluster
    certificate = ManagerCertificate(FORMER, time.time_ns() + HOUR)
    after = msgspec.structs.replace(cluster, revoked=(*cluster.revoked, certificate))
    await founder.manager._store.commit([Put(after)])


def know(host: Host, *addresses: str) -> None:
    """These are the managers that it knows, also after a restart."""
    managers = tuple((NodeId(f"m{number}"), text) for number, text in enumerate(addresses))
    host.up.record.remember_managers(managers)


def play(
    directory: Path, loop: str, scene: Callable[[Host, Host, Captor], Coroutine[Any, Any, None]]
) -> None:
    """With a swarm's manager, its worker, and a former manager."""

    async def main() -> None:
        founder, worker = (Host(directory, number, None) for number in (51, 52))
        try:
            await founder.init()
            await worker.join(founder.listen, (await founder.manager.swarm.join_tokens()).worker)
            await until(lambda: worker.up.agent.uplink.connected)
            async with captor(worker, founder) as former:
                await scene(founder, worker, former)
                for host in (founder, worker):
                    await host.stop()
        finally:
            for host in (founder, worker):
                await host.stop()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


async def refuses(worker: Host, former: Captor) -> bool:
    know(worker, former.address)
    try:
        await worker.up.agent._adapters.managers.connect()
    except Unavailable as cause:
        return f"the manager's certificate {FORMER} was revoked" in str(cause)
    return False


@each_loop
def test_a_worker_that_was_told_refuses_the_manager_and_does_so_after_a_restart(
    tmp_path: Path, loop: str
) -> None:
    async def scene(founder: Host, worker: Host, former: Captor) -> None:
        before = worker.up.member.managers
        await revoke(founder)
        await until(lambda: worker.up._revocations.is_revoked(FORMER))
        assert await refuses(worker, former)
        know(worker, *(address for _, address in before))
        await worker.stop()
        await founder.stop()
        await worker.resume()
        assert await refuses(worker, former)
        assert former.held == []

    play(tmp_path, loop, scene)


@each_loop
def test_a_worker_that_is_held_asks_another_manager_and_gets_away(
    tmp_path: Path, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session begins with the former manager, which names no other; a stream goes there too."""
    monkeypatch.setattr(revocations, "PERIOD", 0.3)

    async def scene(founder: Host, worker: Host, former: Captor) -> None:
        node = worker.up.member.node
        know(worker, former.address)
        await worker.stop()
        await worker.resume()
        know(worker, former.address, founder.listen)
        worker.up.agent.uplink._revocations.note_managers()  # type: ignore[union-attr]
        know(worker, former.address)
        sink = await worker.up.agent._adapters.managers.open_stream(former.address, "s")
        await until(lambda: former.held == [node] and former.reads)
        await revoke(founder)
        async with asyncio.timeout(20):
            await sink.closed()
            await sink.close()
        await until(lambda: former.held == [] and not former.reads)
        assert await refuses(worker, former)
        assert worker.up.member.node in founder.manager.swarm.state.nodes

    play(tmp_path, loop, scene)


def test_only_nodes_of_the_swarm_are_told(tmp_path: Path) -> None:
    async def scene(founder: Host, worker: Host, former: Captor) -> None:
        await revoke(founder)
        ask = RevocationClient(worker.up._credential_source, none_known)
        assert [each.serial for each in await ask(founder.listen)] == [FORMER]
        node = founder.manager.swarm.state.nodes[worker.up.member.node]
        await founder.manager.swarm.remove_node(node.id, force=True)
        with pytest.raises(Forbidden, match="is not part of the swarm"):
            await ask(founder.listen)

    play(tmp_path, "asyncio", scene)


# --- whom an agent asks


def watched(
    directory: Path, managers: list[str], answers: dict[str, list[str]], asked: list[str]
) -> tuple[RevocationWatch, MemoryAgentSession]:
    async def ask(manager: str) -> Iterable[ManagerCertificate]:
        asked.append(manager)
        if manager not in answers:
            raise Unavailable("out of reach")
        return [ManagerCertificate(serial, 2**62) for serial in answers[manager]]

    own = Revocations(directory, virtual_time.clock)
    adapters = RevocationAdapters(revocations=own, ask=ask, managers=lambda: managers)
    _, session = session_pair(None, "")  # type: ignore[arg-type]
    session.address, session.serial = "10.0.0.1", FORMER
    watch = RevocationWatch(adapters, NodeId("n0000"))
    return watch, session


def test_others_are_asked_in_turn_and_one_that_answers_is_enough(tmp_path: Path) -> None:
    async def main() -> None:
        managers = ["10.0.0.1:2377", "10.0.0.2:2377", "10.0.0.3:2377"]
        asked: list[str] = []
        answers: dict[str, list[str]] = {"10.0.0.3:2377": ["5"]}
        watch, session = watched(tmp_path, managers, answers, asked)
        running = asyncio.create_task(watch.run(session))
        await asyncio.sleep(2.5 * PERIOD)
        two, three = managers[1:]
        assert asked == [three, two, three, three]
        managers[:] = ["10.0.0.1:2377"]
        answers[two] = [FORMER]
        with pytest.raises(ManagerRevoked, match=f"certificate {FORMER} was revoked"):
            await running
        assert asked[4:] == [two], "it was named once, and that is enough"

    virtual_time.run(main())


def test_it_remembers_no_end_of_managers(tmp_path: Path) -> None:
    managers: list[str] = []
    watch, _ = watched(tmp_path, managers, {}, [])
    for number in range(1000):
        managers[:] = [f"10.0.1.{number}:2377"]
        watch.note_managers()
    assert len(watch._managers) == MOST_ASKED
