"""The states of nodes' engines, as the nodes tell them when asked."""

from collections.abc import Iterable
from contextlib import aclosing

from weft.manager.broker import StreamBroker
from weft.manager.streams import Accepted, End, How, TheseNodes
from weft.model.engine_state import EngineState
from weft.model.ids import NodeId
from weft.session.messages import EngineStateFrame, EngineStateRequest

SIZE = 64 << 10
"""Bytes that a state takes in memory at most: `incoming.py` limits the number and length of the
failures."""


class EngineStates:
    """`streams.Stream`. Its items are (node, `EngineState`)."""

    frame = EngineStateFrame
    follow, until = False, 0

    def __str__(self) -> str:
        return "engine states"

    def request(self, node: NodeId) -> EngineStateRequest:
        return EngineStateRequest()

    async def accept(self, node: NodeId, frame: EngineStateFrame) -> Accepted:
        return Accepted([(node, frame.state)], SIZE, cost=1)


async def engine_states(
    broker: StreamBroker, nodes: Iterable[NodeId]
) -> dict[NodeId, EngineState | End]:
    """The state of each node's engine, or why there is none. Raises `Unavailable` if this manager
    stops."""
    found: dict[NodeId, EngineState | End] = {}
    async with aclosing(broker.read(EngineStates(), TheseNodes(nodes))) as batches:
        async for batch in batches:
            for item in batch:
                if not isinstance(item, End):
                    node, state = item
                    found[node] = state
                elif item.how is not How.ENDED or item.node not in found:
                    found[item.node] = item
    return found
