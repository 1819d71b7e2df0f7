"""Makes a swarm of the lab's hosts through their API: init on node1, join on the others. Managers
join one after the other, because each has to catch up with the store before the next may come. If
there is a swarm already, any manager is asked: node1 may no longer be one.

Each step first asks for the actual state, so that repeating it changes nothing and mends what is
missing.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from weft.api.client import Api, wait_until
from weft.errors import OperationFailed, Unavailable
from weft.lab.hosts import tail
from weft.lab.layout import Host
from weft.lab.processes import load

SECONDS = 30
"""Timeout of one step."""
SWARM_PORT = 2377
IMAGE = "zaggash/demo-webapp:latest"


def wait_for_daemons(hosts: list[Host]) -> None:
    """Waits until all daemons answer. Raises `OperationFailed`, with the end of its log, if a
    daemon died."""
    for host in hosts:
        wait_until(partial(_answers, host), f"an answer of the daemon of {host.name}", SECONDS)


def form(hosts: list[Host], managers: int = 1) -> None:
    """Makes `managers` of the hosts managers: those that are managers already, then the first of
    the others. Surplus managers stay managers. Returns when every host is ready and on the ingress
    network, and that many managers can be reached."""
    manager = _first_manager(hosts)
    known = _managers(manager)
    for host in sorted(hosts, key=lambda host: host.name not in known)[:managers]:
        _make_manager(host, manager)
    missing = [host for host in hosts if local_state(host) == "inactive"]
    if missing:
        token = Api(manager.socket).get("/swarm")["JoinTokens"]["Worker"]
        each(missing, lambda host: _join(host, manager, token))
    wait_until(
        lambda: len(ready_nodes(manager)) >= len(hosts), f"readiness of {len(hosts)} nodes", SECONDS
    )
    for host in hosts:
        wait_until(
            partial(Api(host.socket).has, "/networks/ingress"), f"ingress on {host.name}", SECONDS
        )


def _first_manager(hosts: list[Host]) -> Host:
    """The first manager that answers. If no host is in a swarm, the first host begins one."""
    if all(local_state(host) == "inactive" for host in hosts):
        address = str(hosts[0].address)
        Api(hosts[0].socket).post(
            "/swarm/init", {"ListenAddr": f"0.0.0.0:{SWARM_PORT}", "AdvertiseAddr": address}
        )
    found: list[Host] = []

    def look() -> bool:
        found.extend(host for host in hosts if membership(host) == ("active", "manager"))
        return bool(found)

    wait_until(look, "a manager that can be asked", SECONDS)
    return found[0]


def _managers(manager: Host) -> set[str]:
    return {
        node["Description"]["Hostname"]
        for node in Api(manager.socket).get("/nodes")
        if node["Spec"]["Role"] == "manager"
    }


def _make_manager(host: Host, manager: Host) -> None:
    """Lets the host join as a manager, or promotes it if it has joined already."""
    if local_state(host) == "inactive":
        _join(host, manager, Api(manager.socket).get("/swarm")["JoinTokens"]["Manager"])
    api = Api(manager.socket)
    wait_until(lambda: bool(_node(api, host)), f"{host.name} in the swarm", SECONDS)
    node = _node(api, host)
    if node["Spec"]["Role"] != "manager":
        spec = {**node["Spec"], "Role": "manager"}
        api.post(f"/nodes/{node['ID']}/update?version={node['Version']['Index']}", spec)
    wait_until(
        lambda: _is_reachable(_node(api, host)),
        f"{host.name} as a manager that can be reached",
        SECONDS,
    )


def _node(api: Api, host: Host) -> dict[str, Any]:
    """The node as the manager knows it; empty if unknown."""
    return next(
        (node for node in api.get("/nodes") if node["Description"]["Hostname"] == host.name), {}
    )


def _is_reachable(node: dict[str, Any]) -> bool:
    return bool((node.get("ManagerStatus") or {}).get("Reachability") == "reachable")


def load_image(hosts: list[Host], archive: Path) -> None:
    each(hosts, lambda host: _load(host, archive))


def local_state(host: Host) -> str:
    """`inactive`, `pending`, `active`, `error` or `locked`."""
    return membership(host)[0]


def membership(host: Host) -> tuple[str, str]:
    """(`local_state`, `manager` or `worker`), as the daemon itself reports it."""
    info = Api(host.socket).get("/info")["Swarm"]
    return str(info["LocalNodeState"]), "manager" if info["ControlAvailable"] else "worker"


def ready_nodes(manager: Host) -> list[str]:
    return [
        node["Description"]["Hostname"]
        for node in Api(manager.socket).get("/nodes")
        if node["Status"]["State"] == "ready"
    ]


def each(hosts: list[Host], action: Callable[[Host], None]) -> None:
    """Runs the action for all hosts at once; raises the first error when all are done."""
    if hosts:
        with ThreadPoolExecutor(len(hosts)) as pool:
            for done in [pool.submit(action, host) for host in hosts]:
                done.result()


def _answers(host: Host) -> bool:
    if load(host.daemon_record) is None:
        raise OperationFailed(
            f"cannot start the daemon of {host.name}: it ended:\n{tail(host.log)}"
        )
    return host.socket.exists() and Api(host.socket, 5).has("/info")


def _join(host: Host, manager: Host, token: str) -> None:
    body = {
        "ListenAddr": f"0.0.0.0:{SWARM_PORT}",
        "AdvertiseAddr": str(host.address),
        "RemoteAddrs": [f"{manager.address}:{SWARM_PORT}"],
        "JoinToken": token,
    }
    try:
        Api(host.socket).post("/swarm/join", body)
    except (OperationFailed, Unavailable) as error:
        raise OperationFailed(f"cannot join {host.name} to the swarm: {error}") from error


def _load(host: Host, archive: Path) -> None:
    api = Api(host.socket, 120)
    if not api.has(f"/images/{IMAGE}/json"):
        api.load_image(archive)
