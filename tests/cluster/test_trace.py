"""`weft trace` on a lab of three hosts: from task to task, from outside to a published port, over an
encrypted network, and where the way ends."""

import json
from typing import Any

import pytest

from tests.cluster.conftest import WEFT, Cluster, Names

NET, SEALED, WEB, APP = "trace-net", "trace-sealed", "trace-web", "trace-app"
CLIENT, PORT = "10.59.72.100", 8097


@pytest.fixture
def traced(cluster: Cluster, names: Names) -> Cluster:
    """A service with a published port on the second host, and one that asks it on the third."""
    for name in (WEB, APP, NET, SEALED):
        names(name)
    cluster.docker("node1", "network", "create", "-d", "overlay", NET)
    cluster.docker("node1", "network", "create", "-d", "overlay", "--opt", "encrypted", SEALED)
    for name, host, more in ((WEB, "node2", ["-p", f"{PORT}:80"]), (APP, "node3", [])):
        where = ["--constraint", f"node.hostname=={host}", "--network", NET, "--network", SEALED]
        cluster.create(name, *where, *more, replicas=1)
    return cluster


def trace(cluster: Cluster, *argv: str, node: str = "node1") -> dict[str, Any]:
    host = f"DOCKER_HOST=unix:///run/weft/lab/{node}/docker.sock"
    words = ["env", host, *WEFT, "trace", "--json", *argv]
    found: dict[str, Any] = json.loads(cluster.run(*words, ok=False).stdout)
    return found


def steps(found: dict[str, Any], way: str = "Out") -> list[str]:
    return [
        f"{leg['Node']} {step['Place'].split('.')[0]}: {step['Words']}"
        for leg in found[way]
        for step in leg["Steps"]
    ]


def assert_passed(found: dict[str, Any]) -> None:
    """The marked packet has passed every hop, in order, and its answer too."""
    probe = found["Probe"]
    assert probe["Agrees"], probe["Verdict"]
    assert not probe["Failures"]
    hops = [*probe["Out"], *probe["Back"]]
    assert hops[0]["Node"] == hops[-1]["Node"] == "node3"
    assert all(hop["Passed"] for hop in hops)
    times = [hop["Microseconds"] for hop in hops]
    assert times == sorted(times)


def test_packets_are_followed_over_the_hosts(traced: Cluster) -> None:
    found = trace(traced, APP, WEB)
    assert found["Arrived"], found["Verdict"]
    assert found["Findings"] == []
    assert [leg["Node"] for leg in found["Out"]] == ["node3", "node2"]
    assert [leg["Node"] for leg in found["Back"]] == ["node2", "node3"]
    assert_passed(found)
    assert steps(found)[-1] == f"node2 {WEB}: arrives"
    assert steps(found, "Back")[-1] == f"node3 {APP}: arrives"

    outside = trace(traced, f":{PORT}", "--from-outside", CLIENT)
    assert outside["Arrived"], outside["Verdict"]
    assert [leg["Node"] for leg in outside["Out"]] == ["node1", "node2"]
    assert any("dnat" in step for step in steps(outside))
    assert not outside["Probe"]["Sent"]
    assert_passed(trace(traced, APP, f"node1:{PORT}"))

    sealed = trace(traced, APP, f"{WEB}.{SEALED}", "--port", "80")
    assert sealed["Arrived"], sealed["Verdict"]
    assert_passed(sealed)
    assert "node3 ESP engine: encrypted" in steps(sealed)
    assert "node2 ESP engine: decrypted" in steps(sealed)
    facts = [fact for leg in sealed["Out"] for step in leg["Steps"] for fact in step["Facts"]]
    assert len([fact for fact in facts if fact.startswith("SPI 0x")]) == 2
    on_host = [s["Packet"]["Protocol"] for leg in sealed["Out"] for s in leg["Steps"]
               if s["Namespace"] == "host"]  # fmt: skip
    assert set(on_host) == {"esp"}

    closed = trace(traced, APP, WEB, "--port", "81")
    assert not closed["Arrived"]
    [finding] = closed["Findings"]
    assert (finding["Node"], finding["Kind"]) == ("node2", "no listener")
    assert closed["Probe"]["Agrees"], closed["Probe"]["Verdict"]

    # What no walk knows of, a packet meets.
    chain = "{ type filter hook egress device ens160 priority 0; }"
    lost = f"add table netdev own; add chain netdev own out {chain}; add rule netdev own out"
    traced.on("node3", "nft", f"{lost} udp dport 4789 drop")
    try:
        disagreeing = trace(traced, APP, f"{WEB}.{NET}", "--port", "80")
    finally:
        traced.on("node3", "nft", "delete table netdev own")
    probe = disagreeing["Probe"]
    assert not probe["Agrees"], disagreeing["Verdict"]
    assert f"last seen at node3, network {NET}, vxlan0, and not at node3, host" in probe["Verdict"]

    traced.lab("pause", "node2")
    try:
        silent = trace(traced, APP, WEB)
    finally:
        traced.lab("resume", "node2")
    assert not silent["Arrived"]
    assert silent["Out"][-1]["Node"] == "node2"
    assert "node2" in silent["Verdict"]
    assert silent["Out"][-1]["Failure"]
    assert steps(silent)[-1].startswith("node3 host: out by")


def test_what_cannot_be_traced_is_named(cluster: Cluster) -> None:
    for node, argv, text in (
        ("node1", ("nobody", ":80"), "cannot trace nobody (source): no task, service, "),
        ("node2", ("nobody", ":80"), "not a swarm manager"),
    ):
        host = f"DOCKER_HOST=unix:///run/weft/lab/{node}/docker.sock"
        refused = cluster.run("env", host, *WEFT, "trace", *argv, ok=False)
        assert refused.returncode == 1
        assert text in refused.stderr
