"""A service that is rebalanced, in a whole swarm in virtual time: a host is lost and comes back, and
the leader is lost while tasks move back."""

from collections import Counter

from tests.sim.test_cluster import leader, play
from tests.simulation.cluster import SimCluster
from weft.model.labels import REBALANCE
from weft.model.service import ContainerSpec, ServiceSpec, TaskSpec, UpdateConfig

SPEC = ServiceSpec(
    name="web",
    replicas=8,
    labels={REBALANCE: "true"},
    update=UpdateConfig(order="start-first"),
    task=TaskSpec(container=ContainerSpec(image="demo")),
)


def homes(cluster: SimCluster) -> Counter[str]:
    """Running containers per host."""
    return Counter(name for name, _ in cluster.running())


def test_tasks_go_back_to_a_host_that_returns_under_any_leader() -> None:
    async def scene(cluster: SimCluster) -> None:
        await cluster.ask(lambda manager: manager.swarm.create_service(SPEC))
        await cluster.until(lambda: sorted(homes(cluster).values()) == [2, 2, 2, 2], 60)
        away = list(cluster.hosts)[-1]
        await cluster.power_off(away)
        await cluster.until(lambda: sum(homes(cluster).values()) == 8, 120)
        assert away not in homes(cluster)
        cluster.power_on(away)
        fewest = 8

        def has(number: int) -> bool:
            nonlocal fewest
            fewest = min(fewest, sum(homes(cluster).values()))
            return homes(cluster)[away] >= number

        await cluster.until(lambda: has(1), 600)
        lost = leader(cluster)
        cluster.isolate(lost)
        await cluster.until(lambda: leader(cluster) not in ("", lost), 60)
        cluster.heal(lost)
        await cluster.until(lambda: has(2), 1200)
        await cluster.until(lambda: sorted(homes(cluster).values()) == [2, 2, 2, 2], 1200)
        assert fewest == 8
        before = {container.id for _, container in cluster.running()}
        await cluster.settle(60)
        assert {container.id for _, container in cluster.running()} == before

    play(3, 1, scene)
