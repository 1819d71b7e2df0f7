"""The worker's side of port 2377: joining a swarm with a token, and holding a session with a manager.

Joining trusts nobody before it must: the root certificate is fetched without verification, compared with the digest in the token,
and only then the secret is sent, over a connection that this root vouches for.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

import aiohttp
import msgspec

from weft.cluster import tls
from weft.cluster.base import AdmissionRequest, Admitted, SessionClosed
from weft.cluster.identity import Credentials, new_key
from weft.cluster.messages import MAX_MESSAGE, FromAgent, FromManager, Goodbye
from weft.cluster.server import decode_frame
from weft.errors import Forbidden, InvalidArgument, Unavailable
from weft.model import codec
from weft.pki.authority import private_pem, request
from weft.pki.tokens import parse_token

log = logging.getLogger(__name__)

TIMEOUT = aiohttp.ClientTimeout(total=20, connect=5)
CONNECT_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=5, sock_connect=5)
_FAILURES = (aiohttp.ClientError, OSError, TimeoutError)


async def join(addresses: Sequence[str], ask: Callable[[str], AdmissionRequest], token: str) -> tuple[Admitted, Credentials]:
    """Joins through the first manager that answers. `ask` makes the request from a certificate request (PEM).

    Raises `InvalidArgument` for a token that is not one, `Forbidden` for one that is refused or made for another swarm,
    `Unavailable` if no manager answers."""
    expected = parse_token(token)
    key = new_key()
    causes = []
    for address in addresses:
        try:
            root = await _fetch_root(address)
            if not expected.recognises(root):
                raise Forbidden("remote CA does not match fingerprint. The join token was made for another swarm")
            admitted = await _admit(address, root, ask(request(key)))
            return admitted, Credentials(admitted.certificate, private_pem(key), admitted.root_certificate)
        except _FAILURES as error:
            causes.append(f"{address}: {error or type(error).__name__}")
    raise Unavailable(f"cannot join swarm: {'; '.join(causes) or 'no manager address given'}")


async def _fetch_root(address: str) -> str:
    async with aiohttp.ClientSession(timeout=TIMEOUT) as http:
        async with http.get(f"https://{address}/v1/root", ssl=tls.unverified_context()) as response:
            response.raise_for_status()
            return await response.text()


async def _admit(address: str, root: str, admission: AdmissionRequest) -> Admitted:
    context = tls.client_context(root)
    async with aiohttp.ClientSession(timeout=TIMEOUT) as http:
        url = f"https://{address}/v1/join"
        async with http.post(url, data=codec.encode(admission), ssl=context, server_hostname=tls.MANAGER_NAME) as response:
            if response.status == 200:
                admitted: Admitted = codec.decode(await response.read(), Admitted)
                return admitted
            text = await response.text()
            raise {403: Forbidden, 400: InvalidArgument}.get(response.status, Unavailable)(text)


class Connector:
    """`cluster.base.Connect`: sessions with whichever manager answers first, in the order known."""

    def __init__(self, credentials: Credentials, managers: Callable[[], Sequence[str]]) -> None:
        self._context = tls.client_context(credentials.root, credentials)
        self._managers = managers

    async def __call__(self) -> "ClientSession":
        causes = []
        for address in self._managers():
            http = aiohttp.ClientSession(timeout=CONNECT_TIMEOUT)
            try:
                async with asyncio.timeout(TIMEOUT.total):
                    socket = await http.ws_connect(
                        f"https://{address}/v1/session", ssl=self._context, server_hostname=tls.MANAGER_NAME,
                        max_msg_size=MAX_MESSAGE, compress=0, timeout=aiohttp.ClientWSTimeout(ws_close=2),
                    )  # fmt: skip
                return ClientSession(http, socket)
            except aiohttp.WSServerHandshakeError as error:
                await http.close()
                if error.status == 403:
                    raise Forbidden(f"manager {address} refuses this node") from error
                causes.append(f"{address}: status {error.status}")
            except BaseException as error:
                await http.close()
                if not isinstance(error, _FAILURES):
                    raise
                causes.append(f"{address}: {error or type(error).__name__}")
        raise Unavailable(f"cannot reach a manager: {'; '.join(causes) or 'none known'}")


class ClientSession:
    """`cluster.base.AgentSession` over a WebSocket."""

    def __init__(self, http: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._http = http
        self._socket = socket

    async def send(self, message: FromAgent) -> None:
        try:
            await self._socket.send_bytes(codec.encode(message))
        except (ConnectionError, RuntimeError, aiohttp.ClientError) as error:
            raise SessionClosed(f"session with the manager is closed: {error}") from error

    async def receive(self) -> FromManager:
        try:
            message: FromManager = decode_frame(await self._socket.receive(), FromManager)
        except (ConnectionError, RuntimeError, aiohttp.ClientError, msgspec.DecodeError) as error:
            raise SessionClosed(f"session with the manager is closed: {error}") from error
        if isinstance(message, Goodbye):
            log.info("session.goodbye reason=%s", message.reason)
        return message

    async def close(self, reason: str) -> None:
        with contextlib.suppress(SessionClosed):
            await self.send(Goodbye(reason))
        await self._socket.close()
        await self._http.close()
