"""What happens to the hosts between two packets: flows are forgotten, and parts of the mesh are
taken away."""

from collections.abc import Callable
from ipaddress import IPv4Address

from tests.support.swarms import Swarm
from tests.walk.conftest import Cluster
from weft.linux.fake import FakeKernel
from weft.network import operations as op
from weft.network.flows import Answered, Asked, stale_flows
from weft.network.kernel_state import HOST, KernelState
from weft.network.plan import plan


def planned_on_node1(swarm: Swarm) -> KernelState:
    return plan(swarm.assignment(1), swarm.facts(1), swarm.residents(1))


def forget(cluster: Cluster, before: KernelState) -> None:
    """As the agent has it done once the rules have changed."""
    for space, stale in stale_flows(before, planned_on_node1(cluster.swarm)):
        connections = cluster.kernel("node1").spaces[space].connections
        match stale:
            case Answered(address):
                connections.forget_answered_by(address)
            case Asked(protocol, port):
                connections.forget_untranslated(protocol, port)


RP_STRICT = op.SetSysctl(HOST, "net.ipv4.conf.all.rp_filter", "1")
NEIGHBOUR = IPv4Address("10.0.0.77")
"""A client that lives in the ingress network's subnet."""


def without_rule(priority: int) -> Callable[[FakeKernel], None]:
    def remove(kernel: FakeKernel) -> None:
        found = [rule for rule in kernel.state()[HOST].rules if rule.priority == priority]
        kernel.damage(RP_STRICT, *(op.RemoveRule(HOST, rule) for rule in found))

    return remove


SABOTAGE: dict[str, Callable[[FakeKernel], None]] = {
    "rule 899": without_rule(899),
    "rule 900": without_rule(900),
    "rule 901": without_rule(901),
    "the route behind ing0": lambda k: k.damage(
        *(op.RemoveRoute(HOST, r) for r in k.state()[HOST].routes if r.table == 5917)
    ),
    "the rules": lambda k: k.flush_tables(HOST),
    "the peers": lambda k: k.delete_neighbours("1-ingress000"),
    "the tunnel": lambda k: k.damage(op.RemoveLink("1-ingress000", "vxlan0")),
    "the leg": lambda k: k.damage(op.RemoveLink(HOST, "ing0")),
    "the leg's MAC": lambda k: k.damage(
        op.SetLink(namespace=HOST, name="ing0", mac="02:43:0a:00:00:09")
    ),
    "forwarding": lambda k: k.damage(op.SetSysctl(HOST, "net.ipv4.ip_forward", "0")),
}
