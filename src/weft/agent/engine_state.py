"""The state of this node's engine, for a manager that asks (`model/engine_state.py`)."""

from weft.engine.networking import Networking
from weft.model.engine_state import EngineFailure, EngineState
from weft.session.messages import MAX_FAILURES


def engine_state(version: str, revision: int, networking: Networking) -> EngineState:
    """`version` and `revision`: see `EngineState`."""
    loop = networking.loop
    failures = tuple(
        EngineFailure(str(failure.operation or ""), failure.cause)
        for failure in loop.failures[:MAX_FAILURES]
    )
    return EngineState(
        version=version,
        revision=revision,
        settled=loop.is_settled,
        sandboxes=networking.sandboxes,
        networks=networking.networks,
        failures=failures,
        failed=len(loop.failures),
    )
