"""A server that shows a certificate of a manager which was revoked: it is told nothing by those
that know the list."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvloop

from tests.support.certified import swarm
from weft.errors import Unavailable
from weft.model.ids import NodeId
from weft.model.logs import LogsWanted
from weft.pki.certificate import holder
from weft.session import tls
from weft.session.base import PublishRequest
from weft.session.client import Connector, EpochClient
from weft.session.identity import Credentials, CredentialSource
from weft.session.messages import LogsRequest, Publish
from weft.session.streams import ManagerRelay, StreamConnector

Ask = Callable[[CredentialSource, str, tls.IsRevoked], Coroutine[Any, Any, object]]
LOGS = PublishRequest(
    node=NodeId("n"),
    publish=Publish(
        subscription="secret", manager="127.0.0.1:2377", request=LogsRequest(wanted=LogsWanted())
    ),
)
ASKED: dict[str, Ask] = {
    "session": lambda credential_source, address, is_revoked: Connector(
        credential_source, lambda: [address], is_revoked
    )(),
    "logs": lambda credential_source, address, is_revoked: StreamConnector(
        credential_source, is_revoked
    )(address, "secret"),
    "epoch": lambda credential_source, address, is_revoked: EpochClient(
        credential_source, is_revoked
    )(address),
    "relay": lambda credential_source, address, is_revoked: ManagerRelay(
        credential_source, is_revoked
    )(address, LOGS),
}
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop,
}  # fmt: skip


@asynccontextmanager
async def listening(credentials: Credentials) -> AsyncIterator[tuple[str, bytearray]]:
    """(address, what it was told) of a server with a manager's credentials that answers nothing."""
    told = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            told.extend(await reader.readuntil(b"\r\n"))
        writer.transport.abort()

    server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=tls.server_context(credentials))
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", told


@pytest.mark.parametrize("loop", list(LOOPS))
@pytest.mark.parametrize("asked", list(ASKED))
def test_nothing_is_said_to_a_server_whose_certificate_was_revoked(loop: str, asked: str) -> None:
    async def main() -> None:
        async with swarm(time.time_ns, workers=0) as cluster:
            own = await cluster.join("manager")
            theirs = cluster.founder.credential_source.credentials
            serial = holder(theirs.certificate).serial
            async with listening(theirs) as (address, told):
                with pytest.raises(
                    Unavailable, match=f"the manager's certificate {serial} was revoked"
                ):
                    await ASKED[asked](
                        own.credential_source, address, lambda shown: shown == serial
                    )
                assert not told
                with pytest.raises(Unavailable):
                    await ASKED[asked](
                        own.credential_source, address, lambda shown: shown != serial
                    )
                assert b"HTTP/1.1" in told, "another one is told what it is asked"

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())
