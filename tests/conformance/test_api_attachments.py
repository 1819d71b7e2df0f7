"""Plain containers on attachable networks of the swarm, as the stock docker command makes them, on
a manager and on a worker."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.client import Daemon, eventually
from tests.support.fake_images import IMAGE
from weft.model.state import ClusterState

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")

SLEEP = ("sh", "-c", "exec sleep 600")


@pytest.fixture
def net(manager: Daemon) -> str:
    """The id of an attachable network `net`, 10.9.0.0/24."""
    return manager.ok(
        *("network", "create", "-d", "overlay", "--attachable", "--subnet", "10.9.0.0/24", "net")
    ).strip()


def run(daemon: Daemon, name: str, *options: str) -> str:
    command = ("run", "-d", "--name", name, "--hostname", name, *options, IMAGE, *SLEEP)
    return daemon.ok(*command).strip()


def places(state: ClusterState) -> dict[str, str]:
    found = (task for task in state.tasks.values() if task.attached is not None)
    return {t.name: str(t.attachments[0].address.ip) for t in found if not t.state.is_terminal}


def networks_of(daemon: Daemon, name: str) -> dict[str, Any]:
    shown = daemon.ok("inspect", name, "--format", "{{json .NetworkSettings.Networks}}")
    found: dict[str, Any] = json.loads(shown)
    return found


def inspected(daemon: Daemon, network: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.ok("network", "inspect", network))[0]
    return found


def test_run_attaches_on_any_node_and_the_end_gives_all_back(
    manager: Daemon, worker: Daemon, net: str
) -> None:
    near = run(manager, "near", "--network", "net", "--network-alias", "db", "--ip", "10.9.0.9")
    far = run(worker, "far", "--network", "net", "--rm")
    addresses = {"near": "10.9.0.9", "far": networks_of(worker, "far")["net"]["IPAddress"]}
    manager.until(lambda state: places(state) == addresses)
    shown = networks_of(manager, "near")["net"]
    assert (shown["NetworkID"], shown["Aliases"]) == (net, ["db"])
    assert shown["IPAMConfig"] == {"IPv4Address": "10.9.0.9"}
    assert set(shown["DNSNames"]) == {"near", near[:12], "db"}
    seen = inspected(worker, "net")
    assert (seen["Scope"], seen["Attachable"], seen["Id"]) == ("swarm", True, net)
    assert seen["Containers"][far]["IPv4Address"] == f"{addresses['far']}/24"
    assert near not in seen["Containers"]
    assert manager.ok("ps", "-q", "--no-trunc", "--filter", "network=net").split() == [near]
    # Neither tasks of nodes nor the tasks of the swarm show containers that are no service's.
    assert manager.ok("node", "ps", "-q") == ""
    worker.ok("stop", "-t", "0", "far")
    manager.ok("stop", "-t", "0", "near")
    manager.until(lambda state: not state.tasks)
    assert worker.ok("network", "ls", "-q", "--filter", "name=net") == ""
    manager.ok("start", "near")
    manager.until(lambda state: places(state) == {"near": "10.9.0.9"})
    manager.ok("restart", "-t", "0", "near")
    manager.until(lambda state: places(state) == {"near": "10.9.0.9"} and len(state.tasks) == 1)
    manager.ok("rm", "-f", "near")
    manager.until(lambda state: not state.tasks)
    manager.ok("network", "rm", "net")


def test_running_containers_are_connected_renamed_and_disconnected(
    manager: Daemon, worker: Daemon, net: str
) -> None:
    worker.ok("network", "create", "back")
    run(worker, "web", "--network", "back")
    worker.ok("network", "connect", "--alias", "db", "--ip", "10.9.0.7", "net", "web")
    assert set(networks_of(worker, "web")) == {"back", "net"}
    manager.until(lambda state: places(state) == {"web": "10.9.0.7"})
    assert "endpoint with name web already exists in network net" in worker.refused(
        "network", "connect", "net", "web"
    )
    worker.ok("rename", "web", "shop")
    manager.until(lambda state: places(state) == {"shop": "10.9.0.7"})
    in_use = manager.refused("network", "rm", "net")
    assert f"network {net} is in use by task " in in_use
    worker.ok("network", "disconnect", "net", "shop")
    assert set(networks_of(worker, "shop")) == {"back"}
    manager.until(lambda state: not state.tasks)
    assert "is not connected to network net" in manager.refused(
        "network", "disconnect", "net", run(manager, "alone", "--network", "none")
    )
    # One that does not run is connected when it is started.
    worker.ok("stop", "-t", "0", "shop")
    worker.ok("network", "connect", "net", "shop")
    assert not manager.call(_state(manager)).tasks
    worker.ok("start", "shop")
    manager.until(lambda state: list(places(state)) == ["shop"])
    assert "is not connected to network net" in manager.refused(
        "network", "disconnect", "-f", "net", "alone"
    )


async def _state_of(daemon: Daemon) -> ClusterState:
    return daemon.node.manager.swarm.state


def _state(daemon: Daemon) -> Any:
    return _state_of(daemon)


def test_what_cannot_be_attached_is_refused_with_the_reason(
    manager: Daemon, worker: Daemon, net: str
) -> None:
    manager.ok("network", "create", "-d", "overlay", "closed")
    run(manager, "first", "--network", "net", "--ip", "10.9.0.9")
    for daemon in (manager, worker):
        for options, text in (
            (("--network", "closed"),
             "Could not attach to network closed: rpc error: code = PermissionDenied desc = network"
             " closed not manually attachable"),
            (("--network", "absent"),
             "Could not attach to network absent: rpc error: code = NotFound desc = network absent"
             " not found"),
            (("--network", "net", "--ip", "10.8.0.9"),
             "Could not attach to network net: address 10.8.0.9 on network net is outside of the"
             " network's subnet 10.9.0.0/24"),
            (("--network", "net", "--ip", "10.9.0.9"),
             "address 10.9.0.9 on network net is already in use by container first"),
        ):  # fmt: skip
            said = daemon.refused("run", "--rm", "--name", "no", *options, IMAGE, "true")
            assert text in said
            assert daemon.ok("ps", "-aq", "--filter", "name=no") == ""
        alone = run(daemon, "alone", "--network", "bridge")
        said = daemon.refused("network", "connect", "closed", alone)
        assert "network closed not manually attachable" in said
        assert set(networks_of(daemon, alone)) == {"bridge"}
    said = manager.refused(
        *("run", "--mac-address", "02:42:0a:09:00:30", "--network", "net", IMAGE, "true")
    )
    assert "MAC address 02:42:0a:09:00:30 is not supported by Weft on networks of the swarm" in said
    manager.until(lambda state: places(state) == {"first": "10.9.0.9"} and len(state.tasks) == 1)


def test_tasks_of_attached_containers_are_listed_to_those_who_ask(
    manager: Daemon, net: str
) -> None:
    id = run(manager, "near", "--network", "net")
    task = next(iter(manager.call(_state_of(manager)).tasks.values()))
    shown = json.loads(manager.ok("inspect", "--type", "task", task.id))[0]
    assert shown["Spec"]["NetworkAttachmentSpec"] == {"ContainerID": id}
    assert shown["Spec"]["Runtime"] == "attachment"


def test_a_container_lives_on_when_its_node_leaves(
    manager: Daemon, worker: Daemon, net: str
) -> None:
    worker.ok("network", "create", "back")
    id = run(worker, "far", "--network", "net", "--restart", "always")
    worker.ok("network", "connect", "back", "far")
    worker.ok("swarm", "leave")
    manager.until(lambda state: not state.tasks)
    assert set(networks_of(worker, "far")) == {"back"}
    assert worker.ok("ps", "-q", "--no-trunc").strip() == id
    assert "network net not found" in worker.refused("network", "connect", "net", "far")


def test_a_manager_out_of_reach_is_named(manager: Daemon, worker: Daemon, net: str) -> None:
    run(worker, "far", "--network", "net")
    address = manager.node.address
    manager.close()
    said = worker.refused("run", "--rm", "--network", "net", IMAGE, "true")
    assert (
        f"Could not attach to network net: cannot reach a manager: {address}:2377: Connection refused"
        in said
    )
    # The container that runs keeps its place, and can leave it.
    assert list(networks_of(worker, "far")) == ["net"]
    worker.ok("rm", "-f", "far")


def test_the_next_daemon_finds_who_has_which_place(manager: Daemon, net: str) -> None:
    """Containers of the node under test are lost with its daemon: their places end."""
    run(manager, "near", "--network", "net")
    manager.restart()
    assert eventually(lambda: not manager.call(_state_of(manager)).tasks)


COMPOSE = """
services:
  app:
    image: {image}
    command: ["sh", "-c", "exec sleep 600"]
    networks:
      net: {{aliases: [shop], ipv4_address: 10.9.0.20}}
      default: {{}}
networks:
  net: {{external: true}}
"""


@pytest.mark.parametrize("on", ["manager", "worker"])
def test_compose_uses_an_external_network(
    manager: Daemon, worker: Daemon, net: str, tmp_path: Path, on: str
) -> None:
    """On a worker this release of Compose wants to see the network; later ones do not."""
    daemon = manager if on == "manager" else worker
    run(daemon, "near", "--network", "net", "--ip", "10.9.0.30")
    near = {"near": "10.9.0.30"}
    (tmp_path / "compose.yml").write_text(COMPOSE.format(image=IMAGE))
    project = ("compose", "-p", "shop", "-f", str(tmp_path / "compose.yml"))
    daemon.ok(*project, "up", "-d")
    shown = networks_of(daemon, "shop-app-1")
    assert set(shown) == {"net", "shop_default"}
    assert (shown["net"]["IPAddress"], "shop" in shown["net"]["Aliases"]) == ("10.9.0.20", True)
    manager.until(lambda state: places(state) == near | {"shop-app-1": "10.9.0.20"})
    daemon.ok(*project, "up", "-d", "--force-recreate", "-t", "0")
    manager.until(lambda state: places(state) == near | {"shop-app-1": "10.9.0.20"})
    daemon.ok(*project, "down", "-t", "0")
    manager.until(lambda state: places(state) == near)
