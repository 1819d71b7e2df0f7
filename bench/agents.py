"""Simulated agents for `bench/scale`: real sessions (WebSockets over mutual TLS), no host and no
containers.

    python bench/agents.py HOST:PORT TOKEN FIRST COUNT

Each joins with the token, keeps a session with heartbeats as often as a real agent, and reports
each task as it is told to be. Of an assignment only the tasks are decoded: the processor is the
manager's, which is what is measured. Commands come on the standard input, one a line, and each is
answered on the standard output with one line once it is done:

    join            every agent that has no session opens one, and a new one whenever it is lost
    leave [K]       the sessions of all agents, or that of agent K, end without a word, and no new
                    ones are opened
    ids             the node ids, in order
    lost            how many sessions were lost since the start that nobody asked to end, by cause:
                    JSON
"""

import asyncio
import json
import sys
import time
from collections import Counter
from ipaddress import IPv4Address
from typing import Any

import aiohttp
import msgspec
import uvloop

from weft.model import codec
from weft.model.ids import ContainerId, NodeId, TaskId
from weft.model.meta import SECOND
from weft.model.node import NodeDescription
from weft.model.service import Resources
from weft.model.task import ContainerStatus, TaskState, TaskStatus
from weft.session import tls
from weft.session.base import AdmissionRequest
from weft.session.client import join
from weft.session.messages import MAX_FROM_MANAGER, Heartbeat, Hello, StatusUpdate

AT_ONCE = 16
"""Joins and connections under way."""
RETRY = 0.5
"""Seconds until a session that was lost is opened anew."""
RESOURCES = Resources(nano_cpus=64_000_000_000, memory=256 << 30)


class TaskTold(msgspec.Struct):
    id: TaskId
    desired: TaskState = TaskState.RUNNING


class ChangeTold(msgspec.Struct):
    full: bool = False
    tasks: tuple[TaskTold, ...] = ()
    removed_tasks: tuple[TaskId, ...] = ()


class AssignmentUpdate(msgspec.Struct, tag=True):
    change: ChangeTold


class Welcome(msgspec.Struct, tag=True):
    heartbeat: int


class StatusAccepted(msgspec.Struct, tag=True):
    number: int


class Goodbye(msgspec.Struct, tag=True):
    reason: str


_decoder = msgspec.msgpack.Decoder(AssignmentUpdate | Welcome | StatusAccepted | Goodbye)


class Agent:
    def __init__(self, manager: str, number: int) -> None:
        self.address = IPv4Address("10.99.0.0") + number
        self.hostname = f"sim{number}"
        self.node = NodeId("")
        self.states: dict[TaskId, TaskState] = {}
        self.informed = asyncio.Event()
        """The first assignment of the session has come."""
        self.lost: Counter[str] = Counter()
        """Sessions that nobody asked to end, by cause."""
        self._manager = manager
        self._context: Any = None
        self._number = 0
        self._session: asyncio.Task[None] | None = None

    async def enter(self, token: str) -> None:
        """Becomes a member of the swarm."""

        def ask(csr: str) -> AdmissionRequest:
            return AdmissionRequest(
                token=token, csr=csr, hostname=self.hostname, data_path_address=self.address
            )

        admitted, credentials = await join([self._manager], ask, token)
        self.node = admitted.node
        self._context = tls.client_context(credentials.root, credentials)

    async def connect(self) -> None:
        if self._session is None or self._session.done():
            self.informed.clear()
            self._session = asyncio.create_task(self._stay())
        await self.informed.wait()

    async def vanish(self) -> None:
        if self._session is not None:
            self._session.cancel()
            await asyncio.gather(self._session, return_exceptions=True)

    async def _stay(self) -> None:
        while True:
            try:
                self.lost[await self._talk()] += 1
            except (OSError, aiohttp.ClientError) as cause:
                self.lost[f"{type(cause).__name__}: {cause}"] += 1
            await asyncio.sleep(RETRY)

    async def _talk(self) -> str:
        """Until the session ends: why."""
        reason = ""
        async with aiohttp.ClientSession() as http:
            socket = await http.ws_connect(
                f"https://{self._manager}/v1/session",
                ssl=self._context,
                server_hostname=tls.MANAGER_NAME,
                max_msg_size=MAX_FROM_MANAGER,
            )
            description = NodeDescription(hostname=self.hostname, resources=RESOURCES)
            await socket.send_bytes(
                codec.encode(
                    Hello(
                        node=self.node, description=description, data_path_address=str(self.address)
                    )
                )
            )
            beats: asyncio.Task[None] | None = None
            try:
                async for frame in socket:
                    message = _understood(frame.data)
                    if isinstance(message, Welcome):
                        beats = asyncio.create_task(_beat(socket, message.heartbeat / SECOND / 2))
                    elif isinstance(message, AssignmentUpdate):
                        await self._take(socket, message.change)
                    elif isinstance(message, Goodbye):
                        reason = message.reason
            finally:
                if beats is not None:
                    beats.cancel()
            return reason or f"closed: {socket.exception() or socket.close_code}"

    async def _take(self, socket: aiohttp.ClientWebSocketResponse, change: ChangeTold) -> None:
        told = {task.id: _obeyed(task.desired) for task in change.tasks}
        news = tuple(
            (id, _status(id, state)) for id, state in told.items() if self.states.get(id) != state
        )
        self.states = told if change.full else self.states | told
        for id in change.removed_tasks:
            self.states.pop(id, None)
        if news:
            self._number += 1
            await socket.send_bytes(codec.encode(StatusUpdate(self._number, news)))
        self.informed.set()


def _understood(data: bytes) -> Any:
    """None for messages that a simulated agent has no use for."""
    try:
        return _decoder.decode(data)
    except msgspec.ValidationError:
        return None


def _obeyed(desired: TaskState) -> TaskState:
    return desired if desired <= TaskState.RUNNING else TaskState.SHUTDOWN


def _status(id: TaskId, state: TaskState) -> TaskStatus:
    return TaskStatus(
        state,
        time.time_ns(),
        state.name.lower(),
        container=ContainerStatus(ContainerId(f"{id:0>64}"), 1),
    )


async def _beat(socket: aiohttp.ClientWebSocketResponse, period: float) -> None:
    while True:
        await asyncio.sleep(period)
        await socket.send_bytes(codec.encode(Heartbeat()))


async def _all(agents: list[Agent], what: Any) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(agent: Agent) -> None:
        async with gate:
            await what(agent)

    await asyncio.gather(*map(one, agents))


async def main(manager: str, token: str, first: str, count: str) -> None:
    agents = [Agent(manager, int(first) + k) for k in range(int(count))]
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    await _all(agents, lambda agent: agent.enter(token))
    print("joined", flush=True)
    while line := (await lines.readline()).decode().split():
        match line:
            case ["join"]:
                await _all(agents, Agent.connect)
            case ["leave", number]:
                await agents[int(number)].vanish()
            case ["leave"]:
                await _all(agents, Agent.vanish)
        print(_answer(line[0], agents), flush=True)


def _answer(command: str, agents: list[Agent]) -> str:
    match command:
        case "ids":
            return json.dumps([agent.node for agent in agents])
        case "lost":
            return json.dumps(sum((agent.lost for agent in agents), Counter()))
    return "done"


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
