"""What somebody may try at a manager's port, against the real listener on loopback with a real
manager behind it.

Each time an ordinary agent has a session all the while, and afterwards another one joins: whatever
was tried, the manager goes on.
"""

import asyncio
import os
import ssl
import time
from contextlib import suppress
from functools import partial

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.attacks import (
    asking,
    credential_source,
    logs_of,
    made,
    new_root,
    posted,
    refused_session,
    run,
)
from tests.support.certified import HOUR, Swarm, free_port
from weft.errors import Forbidden, InvalidArgument, Unavailable
from weft.model import codec
from weft.model.ids import NodeId
from weft.pki import authority, tokens
from weft.session import tls
from weft.session.base import AdmissionRequest, Admitted, MemberRequest
from weft.session.client import Connector, MemberClient, join
from weft.session.identity import Credentials
from weft.session.server import SessionServer
from weft.session.streams import ManagerRelay, StreamConnector

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
"""aiohttp leaves a socket that is reset while it connects to the garbage collector, now and
then."""


# --- false papers


def test_forged_and_foreign_tokens() -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        own = target.manager.swarm.cluster
        before = set(target.manager.swarm.state.nodes)
        forged = tokens.make_token(own.root_ca.certificate, os.urandom(16))
        with pytest.raises(Forbidden, match="A valid join token is necessary"):
            await join([target.address], asking(forged), forged)
        foreign = tokens.make_token(new_root().certificate, os.urandom(16))
        with pytest.raises(Forbidden, match="does not match fingerprint"):
            await join([target.address], asking(foreign), foreign)
        # As it is, without the check that an honest host makes.
        status, text = await posted(
            target, "/v1/join", codec.encode(asking(foreign, authority.request(new_key()))(""))
        )
        assert (status, "valid join token" in text) == (403, True)
        for text in ("", "SWMTKN", own.join_tokens.worker + "0"):
            with pytest.raises(InvalidArgument, match="invalid join token"):
                await join([target.address], asking(text), text)
        assert set(target.manager.swarm.state.nodes) == before

    run(attack)


def test_a_rotated_token_is_worthless() -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        own, old = target.manager.swarm.cluster, await target.manager.swarm.join_tokens()
        await target.manager.swarm.update_cluster(own.meta.version, own.spec, True, False)
        with pytest.raises(Forbidden, match="may have been rotated"):
            await join([target.address], asking(old.worker), old.worker)

    run(attack)


def test_certificates_that_are_not_good() -> None:
    """Expired, of another root, of another cluster under the same root, and of a node that is not
    there."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        long_ago = time.time_ns() - 3 * HOUR
        agent = target.members[1].node
        for credentials, why in (
            # The listener ends the connection in the middle of TLS: what one then sees of that
            # depends on who is faster.
            (made(target, agent, begin=long_ago), "disconnected|closed|reset|expired"),
            (made(target, agent, root=new_root()), "disconnected|closed|reset|unknown ca"),
            (made(target, agent, cluster="c2"), "refuses this node"),
            (made(target, "nobody"), "not part of the swarm"),
        ):
            reason = await refused_session(
                target, credentials, agent if why != "not part of the swarm" else "nobody"
            )
            assert any(part in reason.lower() for part in why.split("|")), reason

    run(attack)


def test_a_node_speaks_for_itself_only() -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        own, other = target.members[1], target.founder
        reason = await refused_session(target, own.credential_source.credentials, other.node)
        assert "whose certificate it has" in reason

    run(attack)


def test_an_agent_believes_no_manager_that_is_none() -> None:
    """Its certificate has expired, is a worker's, or of another root."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        for credentials in (
            made(target, "m", "manager", begin=time.time_ns() - 3 * HOUR),
            made(target, "m", "worker"),
            made(target, "m", "manager", root=new_root()),
        ):
            impostor = SessionServer(
                target.manager, target.manager.swarm.cluster.id, credential_source(credentials)
            )
            address = f"127.0.0.1:{free_port()}"
            await impostor.start(address)
            try:
                with pytest.raises(Unavailable, match="verif"):
                    await Connector(
                        target.members[1].credential_source, partial(list, (address,))
                    )()
                with pytest.raises(Unavailable, match="verif"):
                    token = (await target.manager.swarm.join_tokens()).worker
                    await join([address], asking(token), token)
            finally:
                await impostor.close()

    run(attack)


def test_a_removed_node_is_refused_at_once() -> None:
    """Its certificate is good for months. It is of no use: not for sessions, not for what is the
    managers', not to renew it."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        gone = await target.join("manager")
        await target.until(lambda: gone.uplink.connected)
        node = target.manager.swarm.state.nodes[gone.node]
        requirements = MemberRequest(
            peer_url="https://127.0.0.66:2380", manager_address="127.0.0.66:2377"
        )
        client = MemberClient(gone.credential_source, lambda: [target.address])
        worker = msgspec.structs.replace(node.spec, role="worker")
        await gone.stop()
        await target.manager.swarm.update_node(node.id, node.meta.version, worker)
        await target.manager.swarm.remove_node(gone.node, force=True)
        assert gone.role == "manager"
        assert "not part of the swarm" in await refused_session(
            target, gone.credential_source.credentials, gone.node
        )
        relayed = ManagerRelay(gone.credential_source)(target.address, logs_of(target.members[1]))
        for ask in (client.enlist(requirements), client.admit_vote(), relayed):
            with pytest.raises(Forbidden, match="is not part of the swarm"):
                await ask
        with pytest.raises(Forbidden):
            await StreamConnector(gone.credential_source)(target.address, "s")
        assert target.members[1].asked == []

    run(attack)


def test_a_session_of_a_removed_node_ends() -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        gone = await target.join()
        await target.until(lambda: gone.uplink.connected)
        await target.manager.swarm.remove_node(gone.node, force=True)
        await target.until(lambda: gone.uplink.refused or "removed" in gone.uplink.error)

    run(attack)


def test_a_worker_on_what_is_the_managers() -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        worker = target.members[1].credential_source
        client = MemberClient(worker, lambda: [target.address])
        requirements = MemberRequest(
            peer_url="https://127.0.0.66:2380", manager_address="127.0.0.66:2377"
        )
        relayed = ManagerRelay(worker)(target.address, logs_of(target.members[1]))
        for ask in (client.enlist(requirements), client.admit_vote(), relayed):
            with pytest.raises(Forbidden, match="is not a manager"):
                await ask
        assert target.members[1].asked == []
        for path in ("/v1/members", "/v1/members/vote", "/v1/streams"):
            status, text = await posted(target, path, codec.encode(requirements))
            assert (status, "no client certificate" in text) == (403, True)

    run(attack)


# --- joining


def new_key() -> ec.EllipticCurvePrivateKey:
    return authority.make_key(os.urandom)


def test_a_join_that_is_played_again() -> None:
    """The request is as secret as the token in it. Who has seen one and plays it again gets a
    certificate for a key that he does not have, of a node that is there already; no second node
    appears. It is also what a host does that got no answer."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        token = (await target.manager.swarm.join_tokens()).worker
        seen: list[AdmissionRequest] = []

        def ask(csr: str) -> AdmissionRequest:
            seen.append(asking(token)(csr))
            return seen[-1]

        admitted, credentials = await join([target.address], ask, token)
        nodes = set(target.manager.swarm.state.nodes)
        (captured,) = seen
        own = new_key()
        replayed, _ = await join([target.address], lambda _: captured, token)
        assert replayed.node == admitted.node
        assert set(target.manager.swarm.state.nodes) == nodes
        with pytest.raises(ssl.SSLError):
            tls.node_context(
                Credentials(replayed.certificate, authority.private_pem(own), credentials.root)
            )
        raised = msgspec.structs.replace(
            captured, token=(await target.manager.swarm.join_tokens()).manager
        )
        assert (await join([target.address], lambda _: raised, token))[0].role == "worker", (
            "the role is the node's"
        )

    run(attack)


def test_a_man_in_the_middle_never_sees_the_secret() -> None:
    """He shows a root of his own. The digest in the token is that of another one: nothing but the
    question for the root is sent."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        heard: list[bytes] = []

        class Listening:
            def knows(self, address: str) -> bool:
                return False

            async def admit(self, request: AdmissionRequest, source: str) -> Admitted:
                heard.append(codec.encode(request))
                raise Forbidden("thank you")

        own = new_root()
        key = new_key()
        certificate = authority.issue(
            own,
            authority.request(key),
            authority.NodeCertificate(
                node=NodeId("m"),
                role="manager",
                cluster=target.manager.swarm.cluster.id,
                begin=time.time_ns(),
                lifetime=HOUR,
                serial=5,
            ),
        )
        papers = Credentials(certificate, authority.private_pem(key), own.certificate)
        token = (await target.manager.swarm.join_tokens()).worker
        # He may also pass on the true root; then it is his own certificate that does not follow
        # from it.
        cluster = target.manager.swarm.cluster
        for shown in (
            papers,
            Credentials(papers.certificate, papers.key, cluster.root_ca.certificate),
        ):
            middle = SessionServer(Listening(), cluster.id, credential_source(shown))  # type: ignore[arg-type]
            address = f"127.0.0.1:{free_port()}"
            await middle.start(address)
            try:
                with pytest.raises((Forbidden, Unavailable), match="fingerprint|verif"):
                    await join([address], asking(token), token)
            finally:
                await middle.close()
        assert heard == []

    run(attack)


def test_a_root_that_is_too_long() -> None:
    """Whoever answers the first question has proved nothing yet, and is not listened to for
    long."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (64 << 20))
            with suppress(ConnectionError):
                await writer.drain()
            writer.close()

        context = tls.server_context(made(target, "m", "manager"))
        babbler = await asyncio.start_server(babble, "127.0.0.1", 0, ssl=context)
        port = babbler.sockets[0].getsockname()[1]
        token = (await target.manager.swarm.join_tokens()).worker
        with pytest.raises(Unavailable, match="the answer is longer than"):
            await join([f"127.0.0.1:{port}"], asking(token), token)
        babbler.close()
        await babbler.wait_closed()

    run(attack)
