"""Findings about a host, from facts alone."""

import msgspec
import pytest

from weft.cli.check import status, text
from weft.daemon.firewall import Blocking, Policy, needs, policies
from weft.daemon.fitness import HostFacts, examine
from weft.daemon.host_facts import port_holders

SOME_POLICY = Policy(family="inet", table="filter", chain="input", hook="input", accepted=frozenset({22}))  # fmt: skip
SOME_RULE = Blocking(family="inet", table="own", chain="in", handle=7, need=next(needs(4789)))


def test_a_host_with_nothing_to_find_is_fit() -> None:
    assert examine(HostFacts()) == []
    assert text([]) == ["This host is fit."]


CASES: list[tuple[dict[str, object], int, str, str]] = [
    ({"configuration": "unknown key 'x'"}, 78, "unknown key 'x'", ""),
    ({"missing_programs": ("conmon",)}, 78, "conmon is not installed", "apt install conmon"),
    ({"missing_features": ("the kernel refuses VXLAN",)}, 78, "refuses VXLAN", ""),
    ({"newer_files": ("a newer version of Weft has written x",)}, 78, "newer version", ""),
    ({"file_system": "nfs4"}, 78, "/var/lib/weft is on nfs4", ""),
    ({"free": 5 << 20}, 1, "5 MiB left", "docker image prune"),
    ({"encryption": "", "no_encryption": "no TUN"}, 1, "no TUN", "modprobe"),
    ({"encryption": "userspace"}, 0, "encrypted by a program", ""),
    ({"taken_ports": {"2377/tcp": "nginx"}}, 1, "nginx has port 2377/tcp", "ss -tlnp"),
    ({"taken_ports": {"4789/udp": "a VXLAN"}}, 1, "for VXLAN", "ss -ulnp sport = :4789"),
    ({"engine": "running"}, 1, "Docker Engine runs here", "systemctl disable --now docker"),
    ({"engine": "installed"}, 0, "does not run", ""),
    ({"client": False}, 1, "no docker command", "apt install docker-cli"),
    ({"client": False, "client_package": False}, 1, "no docker command", "apt-get download docker.io"),
    ({"etcd": False}, 0, "several managers", "apt install etcd-server"),
    ({"etcd_service": True}, 0, "starts its own", "systemctl disable --now etcd"),
    ({"networkd_forgets": True}, 1, "deletes the mesh's policy rules", "ManageForeignRoutingPolicyRules=no"),
    ({"networkd_takes_all": "/etc/systemd/network/all.network"}, 1, "all.network configures every link", ""),
    ({"network_manager": True}, 1, "may configure Weft's links", "unmanaged-devices=interface-name:ing0"),
    ({"clock_synchronised": False}, 1, "keeps this clock right", "systemd-timesyncd"),
    ({"clock_synchronised": None}, 0, "", ""),
    ({"apparmor": "WARNING: AppArmor is enabled"}, 1, "apparmor: AppArmor is enabled", "apt install apparmor"),
    ({"address": "two addresses"}, 0, "two addresses: say which", "--advertise-addr"),
    ({"lost_address": "cannot use address 192.0.2.1"}, 1, "the swarm knows this host by it", "docker swarm leave --force"),
    ({"mtu": 1400}, 0, "at most 1400 bytes", ""),
    ({"policies": (SOME_POLICY,)}, 1, "2377/tcp (sessions)", "nft insert rule inet filter input udp dport 4789 accept"),
    ({"blocking": (SOME_RULE,)}, 1, "chain in of table inet own drops 2377/tcp", "nft delete rule inet own in handle 7"),
    ({"policies": (SOME_POLICY,), "firewall": "ufw"}, 1, "drops", "ufw allow 2377/tcp"),
    ({"policies": (SOME_POLICY,), "firewall": "firewalld"}, 1, "drops", "firewall-cmd --reload"),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "expected", "words", "remedy"), CASES)
def test_each_fact_has_its_finding_and_what_to_type(
    facts: dict[str, object], expected: int, words: str, remedy: str
) -> None:
    findings = examine(msgspec.structs.replace(HostFacts(), **facts))
    said = "\n".join(text(findings))
    assert words in said
    assert remedy in said
    assert status(findings) == expected
    assert len(findings) == (1 if words else 0)


def test_every_fact_of_the_host_has_a_case() -> None:
    """A new fact without a finding would be gathered for nothing."""
    covered = {name for facts, *_ in CASES for name in facts}
    about_others = {"no_encryption", "data_root", "data_path_port"}
    assert covered | about_others == set(HostFacts.__struct_fields__)


def test_the_worst_comes_first() -> None:
    facts = HostFacts(mtu=1400, engine="running", missing_programs=("runc",))
    assert [finding.severity for finding in examine(facts)] == ["error", "warning", "note"]


def rule(expressions: list[object], chain: str = "allow") -> dict[str, object]:
    return {"rule": {"family": "ip", "table": "f", "chain": chain, "expr": expressions}}


def chain(**fields: object) -> dict[str, object]:
    return {"chain": {"family": "ip", "table": "f", "name": "in", "hook": "input", "policy": "drop", **fields}}  # fmt: skip


def matching(right: object, op: str = "==") -> dict[str, object]:
    return {"match": {"op": op, "left": {}, "right": right}}


ACCEPT = {"accept": None}
REJECT = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}


@pytest.mark.parametrize(
    ("elements", "found"),
    [
        ([chain()], [set()]),
        ([chain(policy="accept")], []),
        ([chain(hook="output")], []),
        ([chain(family="ip6")], []),
        ([chain(table="weft-guard")], []),
        ([chain(), rule([matching(2377), ACCEPT])], [{2377}]),
        ([chain(), rule([matching({"set": [22, {"range": [2377, 2380]}]}), ACCEPT])], [{22, *range(2377, 2381)}]),
        ([chain(), rule([matching({"set": [{"elem": {"val": 50}}]}), ACCEPT])], [{50}]),
        ([chain(), rule([matching(2377), {"drop": None}])], [set()]),
        ([chain(), rule([matching(2377, "!="), ACCEPT])], [set()]),
        ([chain(policy="accept"), rule([matching(22), ACCEPT], "in"), rule([REJECT], "in")], [{22}]),
        ([chain(policy="accept"), rule([{"counter": {}}, {"drop": None}], "in")], [set()]),
        ([chain(policy="accept"), rule([matching(22), REJECT], "in")], []),
        ([chain(policy="accept"), rule([REJECT], "other")], []),
        ([{"metainfo": {}}, {"table": {}}, chain(hook=None)], []),
    ],
)  # fmt: skip
def test_what_a_firewall_accepts(elements: list[object], found: list[set[object]]) -> None:
    assert [set(policy.accepted) for policy in policies(elements)] == found


SOCKETS = """\
udp   UNCONN 0      0            0.0.0.0:4789      0.0.0.0:*
udp   UNCONN 0      0            0.0.0.0:53        0.0.0.0:*    users:(("dns",pid=3,fd=4))
tcp   LISTEN 0      4096       127.0.0.1:2380      0.0.0.0:*    users:(("etcd",pid=96,fd=7))
tcp   LISTEN 0      511             [::]:2377         [::]:*    users:(("nginx",pid=7,fd=6),("nginx",pid=5,fd=6))
tcp   LISTEN 0      511            [::1]:2377         [::]:*    users:(("other",pid=8,fd=6))
"""


def test_who_has_our_ports() -> None:
    assert port_holders(SOCKETS) == {"4789/udp": ("", 0), "2377/tcp": ("nginx", 7)}
    assert port_holders("") == {}
