"""The page of metrics of one host: asks each part, when somebody asks for the page.

A part that cannot be asked now, such as etcd or the engine that encrypts, is left out, and counted.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable
from pathlib import Path

from weft.agent.metrics import put_agent
from weft.api.request_tally import RequestTally
from weft.api.schema.system import GO_ARCHITECTURES
from weft.daemon.manager_host import DATABASE
from weft.daemon.swarm_node import SwarmNode
from weft.engine.engine import Engine
from weft.engine.metrics import put_encryption, put_engine
from weft.errors import WeftError, described
from weft.lens import catalogue as metric
from weft.lens.page import Page
from weft.model.host import HostInfo
from weft.model.meta import SECOND

log = logging.getLogger(__name__)

PROC = Path("/proc/self")


class HostMetrics:
    """One page is made at a time: a page of a large swarm is some milliseconds of work."""

    def __init__(self, info: HostInfo, engine: Engine, data: Path) -> None:
        """`data`: `<data root>/swarm`."""
        self._info = info
        self._engine = engine
        self._data = data
        self._turn = asyncio.Lock()

    async def text(self, member: SwarmNode | None, requests: RequestTally) -> str:
        """`member`: this host's membership of a swarm, if there is one."""
        async with self._turn:
            page = Page()
            _put_process(page)
            _put_host(page, self._info)
            put_engine(page, self._engine)
            _put_requests(page, requests)
            missing = await _missing("encryption", put_encryption(page, self._engine))
            page.put(metric.NODE_MANAGER, member is not None and member.manager is not None)
            if member is not None:
                missing += await _missing("agent", put_agent(page, member.agent))
                missing += await self._put_member(page, member)
            page.put(metric.MISSING, missing)
            return page.text()

    async def _put_member(self, page: Page, member: SwarmNode) -> int:
        page.put(metric.NODE_INFO, 1, member.member.cluster, member.member.node)
        if member.manager is None:
            return 0
        missing = await _missing("manager", member.manager.put_metrics(page))
        if member.member.store == "alone":
            page.put(metric.STORE_SIZE, _size(self._data / DATABASE))
        return missing


async def _missing(part: str, put: Awaitable[None]) -> int:
    """0, or 1 if the part could not be asked."""
    try:
        await put
    except (WeftError, TimeoutError) as error:
        log.info("metrics.missing part=%s cause=%s", part, described(error))
        return 1
    return 0


def _put_process(page: Page) -> None:
    times = os.times()
    page.put(metric.PROCESS_CPU, times.user + times.system)
    pages = int((PROC / "statm").read_text().split()[1])
    page.put(metric.PROCESS_MEMORY, pages * os.sysconf("SC_PAGE_SIZE"))
    page.put(metric.PROCESS_FILES, len(os.listdir(PROC / "fd")))


def _put_host(page: Page, info: HostInfo) -> None:
    page.put(metric.PROCESS_START, info.started_at / SECOND)
    page.put(metric.ENGINE_CPUS, info.cpus)
    page.put(metric.ENGINE_MEMORY, info.memory)
    architecture = GO_ARCHITECTURES.get(info.architecture, info.architecture)
    page.put(
        metric.ENGINE_INFO,
        1,
        info.version,
        "",
        architecture,
        "overlay2",
        info.kernel,
        info.operating_system,
        "linux",
        info.os_version,
        info.engine_id,
    )


def _put_requests(page: Page, requests: RequestTally) -> None:
    for (method, route, code), count in sorted(requests.answers.by_labels.items()):
        page.put(metric.REQUESTS, count, method, route, code)
    for (method, route), seconds in sorted(requests.seconds.items()):
        page.put(metric.REQUEST_SECONDS, seconds, method, route)


def _size(path: Path) -> int:
    """With SQLite's log beside it."""
    found = (path, path.with_name(path.name + "-wal"))
    return sum(each.stat().st_size for each in found if each.exists())
