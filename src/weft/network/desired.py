"""What a node's kernel is planned from: two parts that do not know each other.

The swarm's part is there while the node is a member of a swarm. The node's own part, its bridge
networks and the containers on them, is always there. Each part is told by its owner alone, and
removing one leaves the other as it is."""

from collections.abc import Sequence

import msgspec

from weft.model.assignment import Overlays
from weft.model.bridge_network import BridgeNetwork
from weft.model.local_sandbox import LocalSandbox
from weft.model.sandbox import NodeFacts
from weft.model.workload import Resident


class SwarmPart(msgspec.Struct, frozen=True):
    overlays: Overlays
    facts: NodeFacts
    residents: Sequence[Resident]
    policies_in_force: bool = False
    """Whether the kernel's ESP engine still has policies, whatever the overlays need."""


class LocalPart(msgspec.Struct, frozen=True):
    networks: tuple[BridgeNetwork, ...] = ()
    sandboxes: tuple[LocalSandbox, ...] = ()


class Desired(msgspec.Struct, frozen=True):
    swarm: SwarmPart | None = None
    """None: the node is in no swarm, or nobody can tell what the swarm needs."""
    local: LocalPart = LocalPart()
    knows_swarm: bool = True
    """Whether the swarm's part is known; if not, see `unknown_swarm.py`."""
