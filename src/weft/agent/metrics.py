"""The metrics of a node in a swarm: its session, its assignment, the services and hosts that it
knows of."""

from collections import Counter

from weft.agent.agent import Agent
from weft.engine.metrics import put_tunnels
from weft.lens import catalogue as metric
from weft.lens.page import Page
from weft.model.assignment import Assignment, NetworkView
from weft.model.encryption import sending_key
from weft.model.meta import SECOND


async def put_agent(page: Page, agent: Agent) -> None:
    """Raises `OperationFailed`."""
    assignment = agent.assignment
    page.put(metric.SESSION, agent.uplink.connected)
    if (expires := agent.uplink.expires) is not None:
        page.put(metric.CERTIFICATE_EXPIRES, expires / SECOND)
    page.put(metric.ASSIGNED, assignment.revision)
    page.put(metric.APPLIED, agent.applied_revision)
    tasks = [task for task in assignment.tasks.values() if task.attached is None]
    page.put(metric.ASSIGNED_TASKS, len(tasks))
    page.put(metric.NETWORK_SANDBOXES, agent.networking.sandboxes)
    _put_peers(page, agent)
    names: Counter[str] = Counter()
    for view in assignment.networks.values():
        names[view.definition.name] += 1
        if names[view.definition.name] == 1:  # one that was removed may still be here
            _put_services(page, view)
    await put_tunnels(page, agent.engine, assignment.networks.values())


def _put_peers(page: Page, agent: Agent) -> None:
    assignment: Assignment = agent.assignment
    peers = Counter(
        str(endpoint.vtep)
        for view in assignment.networks.values()
        for endpoint in view.endpoints.values()
        if endpoint.node != agent.node
    )
    for peer, count in sorted(peers.items()):
        page.put(metric.PEER_ENDPOINTS, count, peer)
    encrypted = {
        endpoint.vtep
        for view in assignment.networks.values()
        if view.definition.encrypted
        for endpoint in view.endpoints.values()
        if endpoint.node != agent.node
    }
    page.put(metric.ESP_ASSOCIATIONS, len(encrypted))
    key = sending_key(assignment.keys)
    if key is not None and key.created_at:
        page.put(metric.ESP_KEY_AGE, (agent.engine.now() - key.created_at) / SECOND)


def _put_services(page: Page, view: NetworkView) -> None:
    serving = Counter(e.service for e in view.endpoints.values() if e.serving)
    seen = set()
    for id, service in view.services.items():
        if service.name in seen:
            continue
        seen.add(service.name)
        mode = "vip" if service.virtual_address is not None else "dnsrr"
        if view.definition.ingress:
            mode = "mesh"
            page.put(metric.SERVICE_PORTS, len(service.ports), service.name)
        page.put(metric.SERVICE_BACKENDS, serving[id], service.name, view.definition.name, mode)
