"""What a running daemon says about its host; and how findings are told."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from weft.daemon.examination import certificates, connections, from_facts
from weft.daemon.firewall import Blocking, Policy, blocking, needs
from weft.daemon.fitness import HostFacts
from weft.model.finding import MOST_FINDINGS, Finding, clock_difference, few, ordered
from weft.model.meta import SECOND
from weft.system.tls_files import TlsFiles


def rule(*expr: object, table: str = "filter", family: str = "inet") -> dict[str, object]:
    place = {"family": family, "table": table, "chain": "in", "handle": 7}
    return {"rule": {**place, "expr": list(expr)}}


def port(protocol: str, number: object, field: str = "dport") -> dict[str, object]:
    left = {"payload": {"protocol": protocol, "field": field}}
    return {"match": {"op": "==", "left": left, "right": number}}


DROP: dict[str, object] = {"drop": None}


def test_rules_that_drop_what_is_ours() -> None:
    def names(*rules: dict[str, object]) -> list[str]:
        return [found.need.name for found in blocking(rules, 4789)]

    assert names(rule(port("udp", 4789), DROP)) == ["4789/udp (VXLAN)"]
    assert names(rule(port("udp", {"range": [4000, 5000]}), {"reject": None})) == [
        "4789/udp (VXLAN)"
    ]
    assert names(rule(port("tcp", {"set": [2377, 2380]}), DROP)) == [
        "2377/tcp (sessions)",
        "2380/tcp (etcd, on managers)",
    ]
    assert names(rule(port("ip", "esp", "protocol"), DROP)) == [
        "protocol 50 (ESP, encrypted overlays)"
    ]
    assert names(rule(port("tcp", 4789), DROP)) == [], "another protocol"
    assert names(rule(port("udp", 4789), {"accept": None})) == []
    assert names(rule(port("udp", 4789), port("ip", "192.0.2.1", "saddr"), DROP)) == []
    assert names(rule(port("udp", 4789, "sport"), DROP)) == []
    assert names(rule(DROP)) == []
    assert names(rule(port("udp", 4789), DROP, table="weft-guard", family="ip")) == [], "our own"


def test_findings_of_the_host() -> None:
    assert from_facts(HostFacts(encryption="userspace")) == [], "a note is nothing to worry about"
    need = next(need for need in needs(4789) if "VXLAN" in need.name)
    found = from_facts(
        HostFacts(
            blocking=(Blocking(family="inet", table="own", chain="in", handle=2, need=need),),
            policies=(
                Policy(family="ip", table="f", chain="i", hook="input", accepted=frozenset()),
            ),
            taken_ports={"2377/tcp": "nginx"},
            free=1,
        )
    )
    assert [(each.severity, each.what) for each in ordered(found)] == [
        ("error", "firewall"),
        ("error", "firewall"),
        ("error", "ports"),
        ("warning", "disk"),
    ]
    assert any(
        str(each) == "error firewall: a rule in chain in of table inet own drops 4789/udp (VXLAN);"
        " nft delete rule inet own in handle 2"
        for each in found
    )


def test_a_table_of_connections_that_is_full() -> None:
    assert connections(95, 100) == []
    assert connections(0, 0) == [], "no connection tracking"
    [full] = connections(96, 100)
    assert "96 of at most 100 connections" in full.cause


def test_a_clock_is_off_if_it_says_a_time_outside_of_question_and_answer() -> None:
    assert clock_difference(said=15, asked=10, heard=20) == 0
    assert clock_difference(said=25, asked=10, heard=20) == 5
    assert clock_difference(said=7, asked=10, heard=20) == -3


def test_a_node_tells_only_so_much() -> None:
    many = [Finding(severity="warning", what=f"{n:03}", cause="x") for n in range(100)]
    worst = Finding(severity="critical", what="z", cause="x")
    told = few([*many, worst])
    assert len(told) == MOST_FINDINGS
    assert told[0] is worst
    assert told[-1].cause == "38 others are not shown"
    assert few(many[:3]) == tuple(many[:3])


def written(path: Path, ends: datetime) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "api")])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(ends - timedelta(days=400)).not_valid_after(ends)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return path


def test_files_of_the_api_that_end_soon(tmp_path: Path) -> None:
    now = datetime(2027, 1, 1, tzinfo=UTC)
    fresh, soon, over = (
        written(tmp_path / f"{days}.pem", now + timedelta(days=days)) for days in (300, 10, -1)
    )

    def told(certificate: Path, ca: Path) -> list[tuple[str, str]]:
        files = TlsFiles(ca=ca, certificate=certificate, key=tmp_path / "key")
        found = certificates([files, files], round(now.timestamp()) * SECOND)
        assert all(str(tmp_path) in each.what for each in found)
        return [(each.severity, each.cause) for each in found]

    assert told(fresh, fresh) == []
    assert told(soon, fresh) == [("warning", "it ends in 10 days")]
    assert told(fresh, over) == [("error", "it has ended, and clients refuse it")]
    [(severity, cause)] = told(tmp_path / "gone", fresh)
    assert (severity, "No such file" in cause) == ("error", True)
