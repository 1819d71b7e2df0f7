"""Whether a service can go back to what it was before an update.

A rollback that users ask for is checked as any request (`requests/services.py`). An automatic one
comes when nobody looks: the secret, config or network of the earlier specification may have been
removed meanwhile, or its port given to another service. Tasks would then wait for ever, in place of
those that still run.
"""

from weft.control.allocator.ports import conflict
from weft.model.service import Service
from weft.model.state import ClusterState


def obstacle(state: ClusterState, service: Service) -> str:
    """Why the service cannot go back to its previous specification; empty: it can."""
    spec = service.previous_spec
    if spec is None:
        return "there is no previous spec"
    container = spec.task.container
    absent = [f"secret {r.name} not found" for r in container.secrets if r.id not in state.secrets]
    absent += [f"config {r.name} not found" for r in container.configs if r.id not in state.configs]
    absent += [
        f"network {attached.target} not found"
        for attached in spec.task.networks
        if attached.target not in state.networks
    ]
    return ", ".join(absent) or conflict(state, service.id, spec.endpoint) or ""
