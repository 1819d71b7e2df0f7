"""What `weft trace` prints of an answer, and what it refuses."""

from typing import Any

import click
from click.testing import CliRunner

from weft.cli import trace

PACKET = {
    "Protocol": "tcp", "Source": "10.0.1.6", "SourcePort": 40000,
    "Destination": "10.0.1.3", "DestinationPort": 80,
}  # fmt: skip


def leg(node: str, *words: str, **fields: Any) -> dict[str, Any]:
    steps = [
        {"Place": "network mynet", "Words": each, "Packet": PACKET, "Facts": ["VNI 4097"]}
        for each in words
    ]
    return {"Node": node, "Failure": "", "Steps": steps} | fields


ANSWER = {
    "Arrived": False,
    "Verdict": "the packet does not arrive",
    "Out": [
        leg("node1", "sends", Name="web", Addresses=["10.0.1.2"]),
        leg("node1", "sends again"),
        leg("node2", Failure="the node did not answer within 2 s"),
    ],
    "Back": [],
    "Findings": [
        {
            "Node": "node1", "Place": "network mynet", "Device": "vxlan0",
            "Words": "no host has 10.0.1.3 behind eth0",
            "Missing": "interface vxlan0 is down", "Repair": "the daemon",
        }
    ],
}  # fmt: skip


def test_a_trace_as_text() -> None:
    text = [click.unstyle(line).rstrip() for line in trace.lines(ANSWER)]
    assert text == [
        "the packet",
        "  node1",
        "    resolver         web: 10.0.1.2",
        f"    network mynet    {'sends':<44} tcp 10.0.1.6:40000 > 10.0.1.3:80",
        "                       VNI 4097",
        f"    network mynet    {'sends again':<44} tcp 10.0.1.6:40000 > 10.0.1.3:80",
        "                       VNI 4097",
        "  node2",
        "    the node did not answer within 2 s",
        "the packet does not arrive",
        "  node1, network mynet, vxlan0: no host has 10.0.1.3 behind eth0: interface vxlan0 is down",
        "    repaired by: the daemon",
    ]


def test_names_that_the_resolver_does_not_know() -> None:
    known = leg("node1", Name="idle", Addresses=[])
    unknown = leg("node1", Name="nobody", Addresses=None)
    answer = ANSWER | {"Out": [known, unknown], "Findings": []}
    text = "\n".join(click.unstyle(line) for line in trace.lines(answer))
    assert "idle: no address" in text
    assert "nobody: no answer" in text


def test_a_target_is_needed() -> None:
    refused = CliRunner().invoke(trace.command, ["app"])
    assert refused.exit_code == 2
    assert "name a source and a target" in refused.output
