"""`GET /metrics` of a whole node: every line is in Prometheus' text format, the numbers are those of
what happened; and at an address of its own, for holders of a certificate only."""

import asyncio
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.client import Daemon
from tests.conformance.test_api_tls import files, make_identity
from tests.support.api_daemon import ApiDaemon
from weft.api.metrics import CONTENT_TYPE, MetricsListener
from weft.api.server import ApiServer
from weft.lens.catalogue import ALL
from weft.model.membership import InitRequest

SAMPLE = re.compile(
    r'([a-z_]+)((?:\{[a-z_]+="(?:[^"\\\n]|\\.)*"(?:,[a-z_]+="(?:[^"\\\n]|\\.)*")*\})?) (\S+)'
)
ONLY_ELSEWHERE = {
    "weft_vxlan_peer_endpoints": "with another host",
    "weft_host_answers": "with another host",
    "weft_esp_packets_total": "with an engine that counts",
    "weft_esp_key_age_seconds": "with an encrypted network",
    "weft_names_answers_total": "with a container that asks",
    "weft_etcd_in_use_bytes": "with etcd",
    "weft_etcd_has_leader": "with etcd",
    "weft_etcd_full": "with etcd",
}


def read(text: str) -> dict[str, float]:
    """Values by name and labels. Fails for what is not in the format."""
    found: dict[str, float] = {}
    family = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
        elif line.startswith("# TYPE "):
            assert line.split()[2] == family
            assert line.split()[3] in ("counter", "gauge", "histogram")
        else:
            match = SAMPLE.fullmatch(line)
            assert match is not None, line
            assert match[1].removesuffix("_bucket").startswith(family.removesuffix("_seconds"))
            assert match[1] + match[2] not in found
            found[match[1] + match[2]] = float(match[3])
    return found


def page(daemon: Daemon) -> dict[str, float]:
    asked = subprocess.run(
        ["curl", "-si", "--unix-socket", daemon.path, "http://localhost/metrics"],
        capture_output=True,
        check=True,
        text=True,
    )
    head, _, body = asked.stdout.partition("\n\n")
    assert head.startswith("HTTP/1.1 200")
    assert CONTENT_TYPE in head
    return read(body)


def test_metrics_of_a_manager(manager: Daemon) -> None:
    manager.ok("network", "create", "-d", "overlay", "inner")
    container = manager.container("--network", "inner", "-p", "8080:80", script="exec sleep 60")
    manager.settled()
    manager.ok("exec", container, "true")
    manager.refused("service", "inspect", "nothing")
    found = page(manager)
    expected = {
        'engine_daemon_container_states_containers{state="running"}': 1,
        'engine_daemon_container_actions_seconds_count{action="start"}': 1,
        'engine_daemon_network_actions_seconds_count{action="connect"}': 1,
        'swarm_manager_nodes{state="ready"}': 1,
        'swarm_manager_tasks_total{state="running"}': 1,
        "swarm_manager_services_total": 1,
        "swarm_manager_leader": 1,
        "swarm_node_manager": 1,
        "swarm_dispatcher_scheduling_delay_seconds_count": 1,
        "weft_session_connected": 1,
        "weft_dispatcher_sessions": 1,
        "weft_dispatcher_behind": 0,
        "weft_network_failures": 0,
        "weft_network_repairs_total": 0,
        "weft_network_sandboxes": 1,
        "weft_metrics_missing_parts": 0,
        "weft_store_healthy": 1,
        'weft_service_tasks{service="web",what="running"}': 1,
        'weft_service_backends{service="web",network="inner",mode="vip"}': 1,
        'weft_service_backends{service="web",network="ingress",mode="mesh"}': 1,
        'weft_service_published_ports{service="web"}': 1,
        'weft_api_requests_total{method="GET",route="/services/{id}",code="404"}': 1,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert found["weft_assignment_applied_revision"] == found["weft_assignment_revision"] > 0
    assert found["swarm_raft_transaction_latency_seconds_count"] > 5
    assert found['weft_control_loop_seconds_count{loop="scheduler"}'] > 0
    names = {re.sub(r"\{.*", "", name) for name in found}
    shown = {m.name for m in ALL if names & {m.name, f"{m.name}_count"}}
    assert shown == {m.name for m in ALL} - ONLY_ELSEWHERE.keys()


def test_labels_do_not_grow_with_what_clients_ask(daemon: Daemon) -> None:
    for number in range(3):
        daemon.refused("inspect", "--type", "container", f"name{number}")
        subprocess.run(
            ["curl", "-s", "-X", "POST", "--unix-socket", daemon.path, f"http://x/tea{number}"],
            check=True,
            capture_output=True,
        )
    found = {
        name: value
        for name, value in page(daemon).items()
        if name.startswith("weft_api_requests_total") and "_ping" not in name
    }
    assert found == {
        'weft_api_requests_total{method="GET",route="/containers/{id}/json",code="404"}': 3,
        'weft_api_requests_total{method="none",route="none",code="404"}': 3,
    }
    assert "swarm_manager_nodes" not in str(page(daemon)), "outside a swarm"


class MetricsDaemon(ApiDaemon):
    def __init__(self, identity: Path) -> None:
        self.identity = identity
        super().__init__(asyncio.new_event_loop)

    async def listen(self, server: ApiServer) -> None:
        await self.node.init(InitRequest())
        self.listener = MetricsListener(self.node, server.tally)
        self.port = await self.listener.start("127.0.0.1", 0, files(self.identity))

    def get(self, path: str, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                "curl",
                "-s",
                "-w",
                "%{http_code}",
                "--cacert",
                self.identity / "ca.pem",
                *options,
                f"https://127.0.0.1:{self.port}{path}",
            ],
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def scraped(tmp_path: Path) -> Iterator[MetricsDaemon]:
    daemon = MetricsDaemon(make_identity(tmp_path / "ours"))
    yield daemon
    daemon.call(daemon.listener.close())
    daemon.close()


def test_the_address_for_prometheus(scraped: MetricsDaemon, tmp_path: Path) -> None:
    """It serves the page to holders of a certificate, and nothing else to anybody."""

    def shown(directory: Path) -> tuple[str, ...]:
        return ("--cert", str(directory / "cert.pem"), "--key", str(directory / "key.pem"))

    body = scraped.get("/metrics", *shown(scraped.identity)).stdout
    assert body.endswith("200")
    assert read(body.removesuffix("200"))["swarm_manager_leader"] == 1
    for path in ("/info", "/v1.47/info", "/containers/json", "/metrics/x"):
        assert scraped.get(path, *shown(scraped.identity)).stdout.endswith("404")
    stranger = make_identity(tmp_path / "theirs")
    for options in ((), shown(stranger)):
        refused = scraped.get("/metrics", *options)
        assert refused.returncode != 0
        assert "swarm" not in refused.stdout
