"""The objects of ours in the host's own namespace, by name and number: exactly these can be listed,
compared and removed. The bridges of this node's own networks have names that other software gives
its bridges too (docker0), or that users chose: these bridges are known by their MAC.

We made all other namespaces that we use; everything in them is ours.
"""

from weft.model.bridge_network import BRIDGE_PREFIX, DEFAULT_DEVICE
from weft.model.sandbox import GATEWAY_BRIDGE

INGRESS_LEG = "ing0"
"""The host's own leg on the ingress network's bridge."""
GATEWAY_PORT_PREFIX = "wgw-"
"""Ports of docker_gwbridge: this prefix and the first ten digits of the sandbox's id."""
INGRESS_SANDBOX = "ingress_sbox"
LOCAL_PORT_PREFIX = "wbr-"
"""Ports of the bridges of this node's own networks: this prefix, the first nine digits of the
sandbox's id and the interface's number."""
MOST_INTERFACES = 100
"""Interfaces of a sandbox: the number has two digits in the port's name, which has at most fifteen
characters."""
BRIDGE_MAC = "02:45"
"""MAC of a bridge of this node's own networks: this prefix and the bridge's address."""

MESH_TABLE = 5917
"""Routing table of the mesh: the ingress subnet, through `ing0`."""
MESH_PRIORITIES = range(899, 902)
"""Policy routing rules of the mesh."""
GATEWAY_TABLE = 5918
"""Routing table of packets from docker_gwbridge to a container of this host: through its port."""
GATEWAY_PRIORITY = 902
"""Policy routing rule of `GATEWAY_TABLE`."""
REQUEST_MARK = 0x20000
"""Mark of packets that the mesh sends to a task."""
ANSWER_MARK = 0x30000
"""Mark of packets that come back from a task."""

ESP_SANDBOX = "esp_sbox"
"""Namespace of the VXLAN sockets of encrypted networks. Its only interface is that of the userspace
ESP engine."""
ESP_DEVICE = "esp0"
"""The ESP engine's interface in `esp_sbox`."""
ESP_MAC = "02:00:00:00:05:e5"
"""MAC of the ESP engine's interface. Any MAC will do: nothing else is on that link."""
ESP_MARK = 0x00D0C4E3
"""Mark for the kernel's ESP policies with an ICV of 64 bits; the mark for 128 bits is one more. The
number is Docker Swarm's."""
CLEAR_MARK = ESP_MARK + 2
"""Mark of VXLAN datagrams of plain networks, where the kernel encrypts all others."""
GUARD_TABLE = "weft-guard"
BRIDGE_TABLE = "weft-bridges"
"""Rules of this node's own networks."""
BRIDGE_MESH_TABLE = "weft-bridges-mesh"
"""Rules for the way from there into the swarm's mesh."""
UNDERLAY_TABLE = "weft-underlay"

TABLE_PREFIX = "weft"
"""Names of our nftables tables in the host's namespace begin with this."""


def owns_link(name: str) -> bool:
    """Whether a link is ours by its name: any but the bridges of this node's own networks."""
    return name in (GATEWAY_BRIDGE, INGRESS_LEG) or name.startswith(
        (GATEWAY_PORT_PREFIX, LOCAL_PORT_PREFIX)
    )


def owns_bridge(mac: str | None) -> bool:
    """`mac`: a bridge's."""
    return mac is not None and mac.startswith(f"{BRIDGE_MAC}:")


def may_own_bridge(name: str) -> bool:
    """For the watch of the kernel, which is not told the MAC: false of a bridge that a user has
    named, whose changes are found later."""
    return name == DEFAULT_DEVICE or name.startswith(BRIDGE_PREFIX)


def owns_routing_table(table: int) -> bool:
    return table in (MESH_TABLE, GATEWAY_TABLE)


def owns_rule(priority: int, mark: int, input_device: str | None) -> bool:
    """The priority and the mark, or the device, must be ours: other software may use the priority.
    The routing table does not matter: whatever it is, the rule would take our packets there."""
    if priority == GATEWAY_PRIORITY:
        return not mark and input_device == GATEWAY_BRIDGE
    return priority in MESH_PRIORITIES and mark in (REQUEST_MARK, ANSWER_MARK)


def owns_table(name: str) -> bool:
    return name == TABLE_PREFIX or name.startswith(f"{TABLE_PREFIX}-")


def overlay_namespace(network: str) -> str:
    return f"1-{network[:10]}"


def balancer_namespace(network: str) -> str:
    """The load-balancer namespace of an overlay; that of the ingress network is
    `INGRESS_SANDBOX`."""
    return f"lb_{network[:9]}"


def gateway_port(sandbox: str) -> str:
    """The host's end of the veth that leads from a sandbox, or from `ingress_sbox`, to
    docker_gwbridge."""
    return GATEWAY_PORT_PREFIX + sandbox[:10]


def local_port(sandbox: str, number: int) -> str:
    """The host's end of the veth that leads from interface `eth<number>` of a sandbox to a bridge."""
    return f"{LOCAL_PORT_PREFIX}{sandbox[:9]}{number:02}"
