"""Attacks on a manager's port: the real listener on loopback with a real manager behind it, an
ordinary agent that has a session all the while, and another one that joins afterwards."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import IPv4Address

import aiohttp
import pytest
import uvloop

from tests.support.certified import HOUR, Member, Swarm, swarm
from weft.errors import Forbidden, Unavailable
from weft.model.cluster import RootCa
from weft.model.ids import ClusterId, NodeId
from weft.model.logs import LogsWanted
from weft.model.node import NodeDescription, Role
from weft.pki import authority
from weft.session import tls
from weft.session.base import AdmissionRequest, PublishRequest, SessionClosed
from weft.session.client import Connector
from weft.session.identity import Credentials, CredentialSource
from weft.session.listener import LIMITS, Limits
from weft.session.messages import (
    Goodbye,
    Hello,
    LogsRequest,
    Publish,
)
from weft.session.server import SessionServer

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop,
}  # fmt: skip
each_loop = pytest.mark.parametrize("loop", list(LOOPS))


def run(
    attack: Callable[[Swarm, SessionServer], Awaitable[None]],
    limits: Limits = LIMITS,
    loop: str = "asyncio",
) -> None:
    async def main() -> None:
        async with swarm(time.time_ns, workers=0) as target, target.listen(limits) as server:
            await again(target.founder)
            agent = await target.join()
            await target.until(lambda: agent.uplink.connected)
            sessions = [agent, target.founder]
            opened = [member.uplink.connected for member in sessions]
            await attack(target, server)
            assert [member.uplink.connected for member in sessions] == opened
            late = await target.join()
            await target.until(lambda: late.uplink.connected)
            for member in target.members:
                await member.stop()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


async def again(member: Member) -> None:
    """Its session was in memory; now it goes to the listener."""
    await member.stop()
    member.start()


def credential_source(credentials: Credentials) -> CredentialSource:
    return CredentialSource(credentials, lambda _: None)


def made(
    target: Swarm,
    node: str,
    role: Role = "worker",
    cluster: str = "",
    root: RootCa | None = None,
    begin: int = 0,
) -> Credentials:
    """Credentials of the swarm, but for what is said."""
    own = target.manager.swarm.cluster
    key = authority.make_key(os.urandom)
    certificate = authority.issue(
        root or target.open_root(own.root_ca),
        authority.request(key),
        authority.NodeCertificate(
            node=NodeId(node),
            role=role,
            cluster=ClusterId(cluster or own.id),
            begin=begin or time.time_ns(),
            lifetime=HOUR,
            serial=5,
        ),
    )
    return Credentials(certificate, authority.private_pem(key), own.root_ca.certificate)


def new_root() -> RootCa:
    return authority.root(authority.make_key(os.urandom), time.time_ns(), 1)


def asking(token: str, csr: str = "") -> Callable[[str], AdmissionRequest]:
    return lambda own: AdmissionRequest(
        token=token,
        csr=csr or own,
        hostname="attacker",
        data_path_address=IPv4Address("127.0.0.66"),
    )


async def refused_session(target: Swarm, credentials: Credentials, node: str) -> str:
    """Why there is none."""
    try:
        session = await Connector(credential_source(credentials), lambda: [target.address])()
        await session.send(
            Hello(node=NodeId(node), description=NodeDescription(), data_path_address="127.0.0.66")
        )
        answer = await session.receive()
        await session.close("")
    except (SessionClosed, Unavailable, Forbidden) as error:
        return str(error)
    assert isinstance(answer, Goodbye), f"got a session and {answer}"
    return answer.reason


def logs_of(member: Member) -> PublishRequest:
    return PublishRequest(
        node=member.node,
        publish=Publish(
            subscription="s", manager="127.0.0.66:2377", request=LogsRequest(wanted=LogsWanted())
        ),
    )


async def got(target: Swarm, path: str) -> tuple[int, str]:
    """By somebody without a certificate."""
    context = tls.client_context(target.manager.swarm.cluster.root_ca.certificate)
    async with aiohttp.ClientSession() as http:
        async with http.get(
            f"https://{target.address}{path}", ssl=context, server_hostname=tls.MANAGER_NAME
        ) as response:
            return response.status, await response.text()


async def posted(target: Swarm, path: str, body: bytes | AsyncIterator[bytes]) -> tuple[int, str]:
    """By somebody without a certificate."""
    context = tls.client_context(target.manager.swarm.cluster.root_ca.certificate)
    async with aiohttp.ClientSession() as http:
        url = f"https://{target.address}{path}"
        async with http.post(
            url, data=body, ssl=context, server_hostname=tls.MANAGER_NAME
        ) as response:
            return response.status, await response.text()
