"""What `weft check` says about firewalls, with real rules: as nft lists them, and after the lines
that it gave were typed."""

import json
import subprocess

import pytest

from weft.daemon.firewall import policies
from weft.daemon.fitness import HostFacts, examine

pytestmark = pytest.mark.root

SSH_ONLY = """
table inet filter {
  chain input { type filter hook input priority 0; policy drop; ct state established accept; tcp dport 22 accept; }
  chain forward { type filter hook forward priority 0; policy drop; }
  chain output { type filter hook output priority 0; policy drop; }
}
table ip weft-guard {
  chain i { type filter hook input priority 0; policy drop; }
}
"""
OPENED = """
table inet filter {
  chain input {
    type filter hook input priority 0; policy drop
    tcp dport { 22, 2377-2380 } accept
    ip saddr 192.0.2.0/24 udp dport 4789 accept
    jump more
  }
  chain more { ip protocol { icmp, esp } accept; }
  chain forward {
    type filter hook forward priority 0; policy drop
    iifname { "ing0", "docker_gwbridge" } accept
    oifname { "ing0", "docker_gwbridge" } accept
  }
}
"""


def listed(rules: str, *commands: str) -> HostFacts:
    """What is found in a namespace with these rules, after these commands."""
    script = "\n".join(["set -e", f"nft -f - <<'END'\n{rules}\nEND", *commands, "nft --json list ruleset"])  # fmt: skip
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", script], capture_output=True, text=True, check=True
    )
    return HostFacts(policies=tuple(policies(json.loads(done.stdout)["nftables"])))


def test_the_lines_that_are_given_open_what_was_closed() -> None:
    found = examine(listed(SSH_ONLY))
    assert [finding.text.partition(" drops")[0] for finding in found] == [
        "chain input of table inet filter",
        "chain forward of table inet filter",
    ]
    lines = [line for finding in found for line in finding.remedy]
    assert len(lines) == 6
    assert examine(listed(SSH_ONLY, *lines)) == []


def test_a_firewall_that_is_open_already_is_left_alone() -> None:
    assert examine(listed(OPENED)) == []
