"""What is ours in the host's own namespace, by name and number: it can be listed, compared and
removed, and nothing else.

All other namespaces that we use we made ourselves; everything in them is ours.
"""

from weft.model.sandbox import GATEWAY_BRIDGE

INGRESS_LEG = "ing0"
"""The host's own leg on the ingress network's bridge."""
GATEWAY_PORT_PREFIX = "wgw-"
"""Ports of docker_gwbridge: this and the first ten digits of the sandbox's id."""
INGRESS_SANDBOX = "ingress_sbox"

MESH_TABLE = 5917
"""Routing table of the mesh: the ingress subnet, through `ing0`."""
MESH_PRIORITIES = range(899, 902)
"""Policy routing rules of the mesh."""
REQUEST_MARK = 0x20000
"""Of packets that the mesh sends to a task."""
ANSWER_MARK = 0x30000
"""Of packets that come back from one."""

ESP_SANDBOX = "esp_sbox"
"""Namespace in which the VXLAN sockets of encrypted networks are, with the userspace ESP engine's
interface and no other."""
ESP_DEVICE = "esp0"
"""The engine's interface in it."""
ESP_MAC = "02:00:00:00:05:e5"
"""Of that interface. Any will do: nobody else is on that link."""
ESP_MARK = 0x00D0C4E3
"""Of the kernel's ESP policies with an ICV of 64 bits; with 128 bits it is one more. Docker Swarm's
number."""
CLEAR_MARK = ESP_MARK + 2
"""Of VXLAN datagrams that belong to a plain network, where the kernel seals the others."""
GUARD_TABLE = "weft-guard"
UNDERLAY_TABLE = "weft-underlay"

TABLE_PREFIX = "weft"
"""Names of our nftables tables in the host's namespace begin with this."""


def owns_link(name: str) -> bool:
    return name in (GATEWAY_BRIDGE, INGRESS_LEG) or name.startswith(GATEWAY_PORT_PREFIX)


def owns_routing_table(table: int) -> bool:
    return table == MESH_TABLE


def owns_rule(priority: int, table: int, mark: int) -> bool:
    """Both numbers and the mark must be ours: somebody else may use the priority."""
    return priority in MESH_PRIORITIES and mark in (REQUEST_MARK, ANSWER_MARK)


def owns_table(name: str) -> bool:
    return name == TABLE_PREFIX or name.startswith(f"{TABLE_PREFIX}-")


def overlay_namespace(network: str) -> str:
    return f"1-{network[:10]}"


def balancer_namespace(network: str) -> str:
    """Of an overlay; the ingress network's is `INGRESS_SANDBOX`."""
    return f"lb_{network[:9]}"


def gateway_port(sandbox: str) -> str:
    """The host's end of the veth that leads from a sandbox, or from `ingress_sbox`, to
    docker_gwbridge."""
    return GATEWAY_PORT_PREFIX + sandbox[:10]
