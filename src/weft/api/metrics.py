"""`GET /metrics`, for Prometheus: as a route of the API, and at an address of its own.

The address of its own serves nothing else, and has a CA of its own: whoever may read the metrics is
not root on this host thereby. (docs/decisions/0037)"""

import logging
from functools import partial

from aiohttp import web

from weft.api.backend import Node
from weft.api.call import Call
from weft.api.connection import HttpConnection
from weft.api.request_tally import RequestTally
from weft.api.tls import TlsListener
from weft.system.tls_files import TlsFiles

log = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format."""
TALLY = web.AppKey("tally", RequestTally)
GRACE = 1.0
"""Seconds for answers in progress when the listener is closed."""


async def show(call: Call) -> web.Response:
    return _page(await call.node.metrics(call.request.app[TALLY]))


def _page(text: str) -> web.Response:
    return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})


class MetricsListener:
    def __init__(self, node: Node, tally: RequestTally) -> None:
        self._node = node
        self._tally = tally
        self._runner: web.AppRunner | None = None
        self._tls: TlsListener | None = None

    async def start(self, address: str, port: int, files: TlsFiles) -> int:
        """Listens on TCP for clients with a certificate of the CA, and returns the port. Raises
        `InvalidArgument` for unusable files, `OperationFailed` if the address cannot be used."""
        application = web.Application()
        application.router.add_get("/metrics", self._answer)
        self._runner = web.AppRunner(application, handle_signals=False, shutdown_timeout=GRACE)
        await self._runner.setup()
        assert self._runner.server is not None
        self._tls = TlsListener(files, partial(HttpConnection, self._runner.server))
        bound = await self._tls.start(address, port)
        log.info("metrics.listening address=%s port=%d", address, bound)
        return bound

    async def close(self) -> None:
        if self._tls is not None:
            self._tls.stop_listening()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._tls is not None:
            await self._tls.close()

    async def _answer(self, request: web.Request) -> web.Response:
        return _page(await self._node.metrics(self._tally))
