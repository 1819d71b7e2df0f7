"""The metrics of the engine: containers, health checks, events, the network, names."""

from collections import Counter
from collections.abc import Iterable

from weft.engine.engine import Engine
from weft.lens import catalogue as metric
from weft.lens.page import Page
from weft.linux.base import LinkTraffic
from weft.model.assignment import NetworkView
from weft.model.container import ContainerState
from weft.network.ownership import overlay_namespace


def put_engine(page: Page, engine: Engine) -> None:
    _put_containers(page, engine)
    for action, seconds in engine.network_actions.by_label.items():
        page.spread(metric.NETWORK_ACTIONS, seconds, action)
    page.put(metric.HEALTH_CHECKS, engine.health.probes)
    page.put(metric.HEALTH_CHECKS_FAILED, engine.health.failed_probes)
    page.spread(metric.HEALTH_CHECK_START, engine.health.start_seconds)
    page.put(metric.EVENTS, engine.events.total)
    page.put(metric.EVENTS_SUBSCRIBERS, engine.events.listeners)
    loop = engine.network
    page.spread(metric.NETWORK_ROUNDS, loop.seconds)
    page.put(metric.NETWORK_OPERATIONS, loop.operations)
    page.put(metric.NETWORK_REPAIRS, loop.repairs)
    page.put(metric.NETWORK_FAILURES, len(loop.failures))
    page.put(metric.NETWORK_BEHIND, loop.behind)
    for (code, source, transport), count in sorted(engine.names.answers.by_labels.items()):
        page.put(metric.NAMES, count, code, source, transport)
    for source, seconds in engine.names.seconds.by_label.items():
        page.spread(metric.NAMES_SECONDS, seconds, source)


def _put_containers(page: Page, engine: Engine) -> None:
    """Docker's three states; a container that was only created counts as stopped, as there."""
    count: Counter[str] = Counter()
    for container in engine.runtime.containers():
        is_running = container.state is ContainerState.RUNNING
        count["stopped" if not is_running else "paused" if container.paused else "running"] += 1
    for state in ("running", "paused", "stopped"):
        page.put(metric.CONTAINERS, count[state], state)
    for action, seconds in engine.container_actions.by_label.items():
        page.spread(metric.CONTAINER_ACTIONS, seconds, action)


async def put_encryption(page: Page, engine: Engine) -> None:
    """Raises `OperationFailed`."""
    esp = engine.adapters.network.esp
    if esp is not None:
        for fate, count in sorted((await esp.counters()).items()):
            page.put(metric.ESP_PACKETS, count, fate)


async def put_tunnels(page: Page, engine: Engine, networks: Iterable[NetworkView]) -> None:
    """Of two networks with one name, as while one is removed, only one is shown. Raises
    `OperationFailed`."""
    traffic = await engine.adapters.network.kernel.traffic()
    spaces = {view.definition.name: overlay_namespace(view.definition.id) for view in networks}
    for name, space in sorted(spaces.items()):
        counted = [sum(column) for column in zip(*traffic.get(space, {}).values(), strict=True)]
        if not counted:
            continue
        total = LinkTraffic(*counted)
        for direction, packets, octets, dropped in (
            (
                "received",
                total.received_packets,
                total.received_bytes,
                total.receive_dropped + total.receive_errors,
            ),
            ("sent", total.sent_packets, total.sent_bytes, total.send_dropped + total.send_errors),
        ):
            page.put(metric.VXLAN_BYTES, octets, name, direction)
            page.put(metric.VXLAN_PACKETS, packets, name, direction)
            page.put(metric.VXLAN_DROPPED, dropped, name, direction)
