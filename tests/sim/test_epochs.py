"""A swarm that was begun anew, and managers and nodes that have not heard of it: no manager of an
earlier epoch is followed, by either side's own doing."""

import asyncio
from pathlib import Path

import pytest

from tests.support import virtual_time
from tests.support.certified import swarm
from tests.support.members import Host, until
from weft.errors import FailedPrecondition
from weft.model.assignment import AssignmentChange
from weft.model.meta import SECOND
from weft.model.node import NodeDescription, NodeState
from weft.session.base import AgentSession, Identity, SessionClosed
from weft.session.fake import session_pair
from weft.session.messages import AssignmentUpdate, FromAgent, Goodbye, Hello, Welcome


def test_a_manager_sends_a_node_away_that_knows_of_a_later_epoch() -> None:
    """And believes nothing that it says: it is the manager that the swarm has gone on without."""

    async def main() -> None:
        async with swarm(virtual_time.clock, workers=1) as own:
            node = own.members[1].node
            await own.until(
                lambda: own.manager.swarm.state.nodes[node].status.state is NodeState.READY
            )
            await own.members[1].stop()
            await own.until(
                lambda: own.manager.swarm.state.nodes[node].status.state is NodeState.DOWN,
                seconds=60,
            )
            before = own.manager.swarm.state.nodes[node]

            async def said(epoch: int) -> tuple[asyncio.Task[None], AgentSession]:
                ours, theirs = session_pair(
                    Identity(node, "worker", own.manager.swarm.cluster.id), "127.0.0.12"
                )
                await theirs.send(
                    Hello(
                        node=node,
                        description=NodeDescription(),
                        data_path_address="127.0.0.12",
                        epoch=epoch,
                    )
                )
                return asyncio.create_task(own.manager.serve(ours)), theirs

            sent_away, _ = await said(epoch=1)
            with pytest.raises(
                FailedPrecondition,
                match=r"manager is of epoch 0 of the cluster, .* has begun epoch 1 without it",
            ):
                await sent_away
            assert own.manager.swarm.state.nodes[node] == before
            served, session = await said(epoch=0)
            welcome = await session.receive()
            assert isinstance(welcome, Welcome)
            assert welcome.epoch == 0
            assert own.manager.swarm.state.nodes[node].status.state is NodeState.READY
            await session.close("done")
            with pytest.raises(SessionClosed):
                await served

    virtual_time.run(main())


class Claimant:
    """Says that it is a manager of some epoch, and welcomes any node."""

    def __init__(self, epoch: int, peer: Identity) -> None:
        self._epoch, self._peer = epoch, peer
        self._serving: set[asyncio.Task[None]] = set()
        self.heard: list[FromAgent] = []
        self.farewells: list[str] = []

    async def connect(self) -> AgentSession:
        ours, theirs = session_pair(self._peer, "")

        async def serve() -> None:
            try:
                self.heard.append(await ours.receive())
                await ours.send(Welcome(heartbeat=5 * SECOND, managers=(), epoch=self._epoch))
                await ours.send(AssignmentUpdate(AssignmentChange(revision=1, full=True)))
                while True:
                    self.heard.append(await ours.receive())
            except SessionClosed as cause:
                self.farewells.append(str(cause))

        task = asyncio.create_task(serve())
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        return theirs


def test_an_agent_leaves_a_manager_of_an_earlier_epoch_and_remembers_a_later_one(
    tmp_path: Path,
) -> None:
    """A manager that was put back from a copy may not know to send it away."""

    async def main() -> None:
        host = Host(tmp_path, 31, None)
        try:
            own = (await host.init()).member
            peer = Identity(own.node, "manager", own.cluster)
            for epoch, is_followed in ((0, True), (3, True), (3, True), (2, False), (0, False)):
                claimant, known = Claimant(epoch, peer), host.up.member.epoch
                await host.stop()
                host.connect = claimant.connect
                await host.resume()
                uplink = host.up.agent.uplink
                if is_followed:
                    await until(lambda uplink=uplink: uplink.connected)
                    assert host.up.member.epoch == epoch
                else:
                    await until(lambda claimant=claimant: bool(claimant.farewells))
                    assert not uplink.connected
                    assert (
                        uplink.error
                        == f"the manager is of epoch {epoch} of the cluster, which was begun anew"
                        " since: it is 3"
                    )
                    assert {type(message) for message in claimant.heard} <= {
                        Hello,
                        Goodbye,
                    }, "it is told nothing of tasks"
                    assert host.up.member.epoch == 3
                [said] = [
                    message.epoch for message in claimant.heard[:1] if isinstance(message, Hello)
                ]
                assert said == known
        finally:
            await host.stop()

    asyncio.run(main())
