"""A service whose clients stay with their tasks, in a whole swarm in virtual time: all hosts choose
the same task for a client, also a host that was away while tasks came and went."""

import msgspec

from tests.sim.test_cluster import play, web
from tests.simulation.cluster import SimCluster
from weft.model.service import Service as SwarmService
from weft.network.kernel_state import HOST
from weft.network.service_table import Backend, Published, Service

PORT = Published("tcp", 8080)


def chosen(cluster: SimCluster, host: str) -> Service | None:
    """How the mesh of the host chooses a task."""
    space = cluster.hosts[host].kernel.spaces.get(HOST)
    table = space.tables.get(("ip", "weft")) if space else None
    return table.services.get(PORT) if table else None


def agreed(cluster: SimCluster) -> set[Backend]:
    """The tasks among which all hosts choose in the same way by the client's address; empty if they
    do not."""
    first, *others = (chosen(cluster, host) for host in cluster.hosts)
    is_same = first is not None and first.by_client and all(it == first for it in others)
    return set(first.backends) if first is not None and is_same else set()


def test_all_hosts_choose_the_same_task_for_a_client() -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await web(cluster, 3)
        await cluster.until(lambda: len(cluster.running()) == 3, 60)
        service = cluster.state.services[id]
        assert isinstance(service, SwarmService)
        assert not agreed(cluster)
        before = set(cluster.state.tasks_of(id))
        await _label(cluster, service, {"weft.affinity": "client-address"}, 3)
        await cluster.until(lambda: len(agreed(cluster)) == 3, 60)
        assert set(cluster.state.tasks_of(id)) == before, "no task is replaced"
        away = list(cluster.hosts)[-1]
        await cluster.power_off(away)
        await cluster.until(lambda: len(cluster.running()) == 3, 120)
        await _label(cluster, cluster.state.services[id], {"weft.affinity": "client-address"}, 5)
        cluster.power_on(away)
        await cluster.until(lambda: len(agreed(cluster)) == 5, 240)
        await _label(cluster, cluster.state.services[id], {}, 5)
        await cluster.until(
            lambda: all((it := chosen(cluster, h)) and not it.by_client for h in cluster.hosts), 60
        )

    play(3, 1, scene)


async def _label(
    cluster: SimCluster, service: SwarmService, labels: dict[str, str], replicas: int
) -> None:
    spec = msgspec.structs.replace(service.spec, labels=labels, replicas=replicas)
    version = cluster.state.services[service.id].meta.version
    await cluster.ask(lambda manager: manager.swarm.update_service(service.id, version, spec))
