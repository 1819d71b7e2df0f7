"""Addresses that a user chose, in a whole swarm in virtual time: a host is lost with a task that has
one, the leader is lost, and the host comes back with the task still running."""

from ipaddress import IPv4Address, IPv4Network

from tests.sim.test_cluster import leader, play
from tests.simulation.cluster import SimCluster
from weft.model.ids import NetworkId
from weft.model.network import NetworkSpec, Pool
from weft.model.service import ContainerSpec, NetworkAttachmentSpec, ServiceSpec, TaskSpec
from weft.model.task import TaskState

WANTED = {1: "10.31.0.60", 2: "10.31.0.61", 3: "10.31.0.62", 4: "10.31.0.63"}
POOL = Pool(IPv4Network("10.31.0.0/24"))


def addresses(cluster: SimCluster) -> dict[int, str]:
    """Those of running tasks on hosts that are up, by slot."""
    running = (
        (t.slot, t.attachments)
        for t in cluster.state.tasks.values()
        if t.is_live and t.state == TaskState.RUNNING
    )
    return {slot: str(held[0].address.ip) for slot, held in running}


def test_addresses_move_with_their_slots_to_other_hosts_under_any_leader() -> None:
    async def scene(cluster: SimCluster) -> None:
        network = await cluster.ask(
            lambda manager: manager.swarm.create_network(NetworkSpec(name="net", pools=(POOL,)))
        )
        spec = ServiceSpec(
            name="web",
            replicas=4,
            labels={
                "weft.address.net": "10.31.0.50",
                "weft.task-addresses.net": ", ".join(WANTED.values()),
            },
            task=TaskSpec(
                container=ContainerSpec(image="demo"),
                networks=(NetworkAttachmentSpec(NetworkId(network.id)),),
            ),
        )
        id = await cluster.ask(lambda manager: manager.swarm.create_service(spec))
        await cluster.until(lambda: addresses(cluster) == WANTED, 60)
        away = list(cluster.hosts)[-1]
        (task,) = cluster.state.tasks_on(cluster.hosts[away].node).values()
        cluster.isolate(away)
        await cluster.until(
            lambda: addresses(cluster) == WANTED and not cluster.state.tasks[task.id].is_live, 120
        )
        assert not cluster.state.tasks[task.id].attachments
        lost = leader(cluster)
        await cluster.power_off(lost)
        await cluster.until(lambda: leader(cluster) not in ("", lost), 60)
        cluster.heal(away)
        cluster.power_on(lost)
        await cluster.until(lambda: cluster.state.tasks[task.id].state > TaskState.RUNNING, 60)
        await cluster.until(lambda: addresses(cluster) == WANTED, 120)
        await cluster.settle(60)
        assert addresses(cluster) == WANTED
        (held,) = cluster.state.services[id].endpoint.addresses
        assert held.address.ip == IPv4Address("10.31.0.50")

    play(3, 1, scene)
