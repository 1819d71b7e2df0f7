"""A whole node for the API: the daemon's own node, manager, sessions, agent and engine, with
processes of this machine for containers and no kernel below.

A swarm that it founds is real: the store is a file, and agents come through mutual TLS on loopback,
at port 2377 of an address of the node's own. Further nodes join it as on a network. What a test
asks for happens as in a lab, only sooner: `until` waits for it.
"""

import itertools
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import MappingProxyType

from tests.support.engines import engine_on_fakes
from tests.support.fake_images import FakeImages
from tests.support.fake_inside import FakeInside
from weft.daemon.environment import HostAdapters, NodeEnvironment
from weft.daemon.host_info import describe
from weft.daemon.host_node import HostNode
from weft.linux.host import Addresses
from weft.manager.manager import Manager
from weft.model.cluster import SESSION_PORT
from weft.model.generic import resources_from
from weft.model.host import HostInfo
from weft.model.node import NodeState
from weft.model.sandbox import NodeFacts
from weft.model.service import Service
from weft.model.state import KINDS, ClusterState
from weft.model.task import Task, TaskState
from weft.runtime.base import Images
from weft.runtime.fake_processes import ProcessRuntime
from weft.runtime.image_exchange import StoreExchange
from weft.runtime.images import ImageStore

_HOSTS = itertools.count(2)


class WholeNode(HostNode):
    """`api.backend.Node`, outside a swarm at first. `images` and `processes` are the fakes."""

    def __init__(
        self,
        directory: Path,
        hostname: str = "node1",
        *,
        labels: Mapping[str, str] = MappingProxyType({}),
        routes: Sequence[IPv4Network] = (),
        runtime: Callable[[Images], ProcessRuntime] = ProcessRuntime,
        real_images: bool = False,
    ) -> None:
        """`directory`: the host's disk. `labels`: the engine's. `routes`: the host's.
        `real_images`: keeps images on the disk, as a host does, in place of `FakeImages`."""
        self.address = _own_address()
        store = ImageStore(directory / "images", time.time_ns)
        self.image_store = FakeImages()
        images: Images = store if real_images else self.image_store
        self.processes = runtime(images)
        info = host_info(hostname, directory, labels)
        environment = NodeEnvironment(
            data=directory / "swarm",
            run=directory / "run",
            engine=engine_on_fakes(info.engine_id, self.processes, images, directory / "networks"),
            facts=lambda node, address: NodeFacts(
                node=node,
                data_path_address=address,
                underlay_mtu=1500,
                esp_engine="userspace",
            ),
            host=HostAdapters(description=lambda: describe(info), routes=lambda: routes),
        )
        self.files = FakeInside(self.processes)
        exchange = StoreExchange(store)
        super().__init__(info, environment, self._choose_own, self.files, exchange)

    def _choose_own(self, listen: str, advertise: str, data_path: str) -> Addresses:
        return Addresses(f"{self.address}:{SESSION_PORT}", self.address, self.address)

    async def close(self) -> None:
        await super().close()
        await self.processes.close()
        self.files.close()

    # --- for tests

    @property
    def manager(self) -> Manager:
        assert self._member is not None
        assert self._member.manager is not None
        return self._member.manager

    async def until(self, condition: Callable[[ClusterState], bool]) -> None:
        """Returns when it is true of the swarm's state."""
        changes = self.manager._store.subscribe(KINDS)
        try:
            while not condition(self.manager.swarm.state):
                await changes.next()
        finally:
            changes.close()

    async def until_running(self, name: str) -> None:
        """Returns when the service has as many tasks as it wants, all of its present spec, and all
        run."""
        await self.until(lambda state: _runs(state, name))

    async def until_ready(self) -> None:
        """Returns when the swarm has its ingress network, and this node may be given tasks."""
        await self.until(
            lambda state: (
                state.ingress is not None
                and bool(state.ingress.segments)
                and all(node.status.state is NodeState.READY for node in state.nodes.values())
            )
        )

    async def until_started(self, name: str) -> list[Task]:
        """Returns as many tasks as the service wants, which have run or still run."""
        await self.until(lambda state: len(_started(state, name)) >= _wanted(state, name))
        return _started(self.manager.swarm.state, name)


def asked_for(state: ClusterState) -> dict[str, object]:
    """What users have asked for, which a refused request must leave as it is. The loops and the
    agents change the rest when they like."""
    assert state.cluster is not None
    tables = (state.networks, state.services, state.nodes, state.secrets, state.configs)
    found: dict[str, object] = {str(o.id): o.spec for table in tables for o in table.values()}
    return found | {"cluster": state.cluster.spec, "tokens": state.cluster.join_tokens}


def _service(state: ClusterState, name: str) -> Service:
    found = state.named("service", name)
    assert isinstance(found, Service), f"there is no service {name}"
    return found


def _wanted(state: ClusterState, name: str) -> int:
    replicas = _service(state, name).spec.replicas
    return len(state.nodes) if replicas is None else replicas


def _started(state: ClusterState, name: str) -> list[Task]:
    tasks = state.tasks_of(_service(state, name).id).values()
    return [task for task in tasks if task.state >= TaskState.RUNNING]


def _runs(state: ClusterState, name: str) -> bool:
    service = _service(state, name)
    tasks = state.tasks_of(service.id).values()
    live = [task for task in tasks if task.is_live]
    gone = all(task.is_live or task.state.is_terminal for task in tasks)
    return (
        gone
        and len(live) == _wanted(state, name)
        and all(t.state is TaskState.RUNNING and t.spec == service.spec.task for t in live)
    )


def host_info(hostname: str, directory: Path, labels: Mapping[str, str]) -> HostInfo:
    return HostInfo(
        hostname=hostname,
        engine_id=hostname,
        kernel="6.1.0",
        operating_system="Debian GNU/Linux",
        os_version="13",
        architecture="x86_64",
        cpus=2,
        memory=2**32,
        data_root=str(directory),
        runtime="runc 1.1.5",
        conmon="2.1.6",
        version="0.1.0",
        started_at=time.time_ns(),
        labels=dict(labels),
        generic=resources_from(["GPU=uuid-1", "GPU=uuid-2", "licences=3"]),
    )


def _own_address() -> IPv4Address:
    """A loopback address at which nobody in any process listens for nodes."""
    while True:
        host = next(_HOSTS) % 250 + 2
        address = IPv4Address(f"127.{os.getpid() % 250 + 1}.{os.getpid() // 250 % 250}.{host}")
        with socket.socket() as probe:
            try:
                probe.bind((str(address), SESSION_PORT))
            except OSError:
                continue
        return address
