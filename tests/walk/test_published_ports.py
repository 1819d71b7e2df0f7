"""Published ports whose way depends on more than the port: the client's address, the host that runs
the task, or the address at which a host is asked. Traced as in test_packet.py.
"""

from ipaddress import IPv4Address

import msgspec

from tests.support.swarms import Swarm
from tests.walk.conftest import CLIENT, Cluster, arrived
from weft.linux.fake_underlay import Place
from weft.model.ids import TaskId
from weft.model.service import PublishedPort
from weft.model.trace import Packet
from weft.network import operations as op
from weft.network.kernel_state import HOST

WEB, DIRECT = 8080, 9090
NODE1 = IPv4Address("10.59.72.11")


def test_a_client_stays_with_one_task_by_whichever_host_it_asks() -> None:
    """Which one follows from its address, and from the tasks that serve."""
    swarm = Swarm(3)
    net = swarm.network("mynet", "10.10.10.0/24")
    web = swarm.service(
        "web",
        net,
        ports=[PublishedPort(target=80, published=WEB)],
        on=[1, 2, 3],
        affinity="client-address",
    )
    app, *_ = swarm.service("app", net, on=[3])
    cluster = Cluster(swarm)

    def served(client: IPv4Address, first: int = 41000) -> set[TaskId]:
        """By connections of their own."""
        return {
            cluster.task_at(cluster.from_outside(host, WEB, source=(client, first + i)))
            for host in ("node1", "node2", "node3")
            for i in range(4)
        }

    clients = [CLIENT + n for n in range(20)]
    homes = {client: served(client) for client in clients}
    assert all(len(tasks) == 1 for tasks in homes.values())
    assert set().union(*homes.values()) == set(web)
    virtual = swarm.services[net][swarm.tasks[web[0]].service].virtual_address
    assert virtual is not None
    assert len({cluster.task_at(cluster.from_task(app, virtual, 80)) for _ in range(4)}) == 1
    swarm.set_serving(web[0], False)
    cluster.apply()
    for client, (home,) in homes.items():
        (now,) = served(client, 42000)
        assert now == home or home == web[0]


def test_a_host_mode_port() -> None:
    swarm = Swarm(2)
    [task] = swarm.service(
        "direct", ports=[PublishedPort(target=80, published=DIRECT, mode="host")], on=[2]
    )
    [beside] = swarm.service("beside", on=[2])
    cluster = Cluster(swarm)
    request = cluster.from_outside("node2", DIRECT)
    assert cluster.task_at(request) == task
    assert arrived(request).source == CLIENT
    assert cluster.round_trip(request)
    assert cluster.round_trip(cluster.from_host("node2", "127.0.0.1", DIRECT))
    for asker in (task, beside):
        asked = cluster.from_task(asker, cluster.address("node2"), DIRECT)
        assert cluster.task_at(asked) == task
        assert arrived(asked).source == cluster.address("node2"), "so that the answer comes back"
        assert cluster.round_trip(asked, task)
    assert cluster.from_outside("node1", DIRECT).place == Place("node1"), (
        "only on the host that runs it"
    )


def test_a_port_of_the_mesh_at_one_address_of_the_hosts() -> None:
    """The host that has the address answers there; others have the same port for another service,
    or not at all."""
    swarm = Swarm(3)
    bound = PublishedPort(target=80, published=WEB, host_address=NODE1)
    inner = PublishedPort(target=80, published=WEB, host_address=IPv4Address("127.0.0.1"))
    [web] = swarm.service("web", ports=[bound], on=[2])
    other = msgspec.structs.replace(bound, host_address=IPv4Address("10.59.72.12"))
    [beside] = swarm.service("beside", ports=[other], on=[3])
    [private] = swarm.service("private", ports=[inner], on=[3])
    cluster = Cluster(swarm)
    for host, task in (("node1", web), ("node2", beside)):
        request = cluster.from_outside(host, WEB)
        assert cluster.round_trip(request, task)
        assert arrived(request).source == CLIENT
    assert cluster.from_outside("node3", WEB).place == Place("node3"), "nobody's port there"
    assert cluster.round_trip(cluster.from_host("node1", NODE1, WEB), web)
    for host in ("node1", "node2", "node3"):
        assert cluster.round_trip(cluster.from_host(host, "127.0.0.1", WEB), private)
    swarm.set_serving(web, False)
    cluster.apply()
    assert "by mesh-refuse" in cluster.underlay.trace(Packet("tcp", CLIENT, 45000, NODE1, WEB)).end


def test_a_port_in_host_mode_at_one_address_of_its_host() -> None:
    swarm = Swarm(2)
    at = [NODE1, IPv4Address("127.0.0.1"), IPv4Address("192.0.2.10")]
    ports = [
        PublishedPort(target=80, published=DIRECT + i, mode="host", host_address=address)
        for i, address in enumerate(at)
    ]
    [task] = swarm.service("direct", ports=ports, on=[1])
    [beside] = swarm.service("beside", on=[1])
    cluster = Cluster(swarm)
    request = cluster.from_outside("node1", DIRECT)
    assert cluster.round_trip(request, task)
    assert arrived(request).source == CLIENT
    assert cluster.from_host("node1", "127.0.0.1", DIRECT).place == Place("node1")
    for asker in (task, beside):
        assert cluster.round_trip(cluster.from_task(asker, NODE1, DIRECT), task)
    inner = DIRECT + 1
    assert cluster.round_trip(cluster.from_host("node1", "127.0.0.1", inner), task)
    assert cluster.from_outside("node1", inner).place == Place("node1")
    assert cluster.from_task(beside, NODE1, inner).place == Place("node1")
    for setting in ("0", "1"):
        localnet = op.SetSysctl(HOST, "net.ipv4.conf.ens160.route_localnet", setting)
        cluster.kernel("node1").damage(localnet)
        stray = Packet("tcp", CLIENT, 40000, IPv4Address("127.0.0.1"), inner)
        assert not cluster.underlay.trace(stray, via="node1").did("dnat")
    assert cluster.from_outside("node1", DIRECT + 2).place == Place("node1"), "no such address here"
