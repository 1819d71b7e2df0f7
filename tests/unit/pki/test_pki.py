"""Join tokens and certificates, with the openssl command as the oracle for the latter."""

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import InvalidArgument
from weft.model.cluster import JoinTokens, RootCa
from weft.model.ids import ClusterId, NodeId
from weft.model.meta import SECOND
from weft.model.node import Role
from weft.pki import authority, tokens

NOW = 1_800_000_000 * SECOND
DAY = 24 * 3600 * SECOND


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


ROOT = authority.root(new_key(), NOW, 1)


def node_certificate(role: Role = "worker") -> str:
    return authority.issue(
        ROOT,
        authority.request(new_key()),
        authority.NodeCertificate(
            node=NodeId("n1"),
            role=role,
            cluster=ClusterId("c1"),
            begin=NOW,
            lifetime=90 * DAY,
            serial=2,
        ),
    )


@given(st.binary(min_size=16, max_size=16))
def test_a_token_recognises_its_root_only(secret: bytes) -> None:
    text = tokens.make_token(ROOT.certificate, secret)
    assert len(text) == len("SWMTKN-1-") + 50 + 1 + 25
    token = tokens.parse_token(text)
    assert token.recognises(ROOT.certificate)
    assert not token.recognises(ROOT.certificate + " ")


@pytest.mark.parametrize(
    "text", ["", "SWMTKN-1-a-b", "SWMTKN-2-" + "0" * 50 + "-" + "0" * 25, "x" * 100]
)
def test_what_is_no_token_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidArgument, match="^invalid join token$"):
        tokens.parse_token(text)


def test_the_secret_decides_the_role() -> None:
    worker, manager, forged = (
        tokens.make_token(ROOT.certificate, bytes([i]) * 16) for i in range(3)
    )
    both = JoinTokens(worker, manager)
    assert [tokens.role_of(t, both) for t in (worker, manager, forged)] == [
        "worker",
        "manager",
        None,
    ]


def test_secrets_are_not_printed() -> None:
    token = tokens.make_token(ROOT.certificate, b"s" * 16)
    assert token not in repr(JoinTokens(token, token))
    assert "PRIVATE" not in repr(ROOT)
    assert tokens.parse_token(token).secret not in repr(tokens.parse_token(token))


def test_openssl_accepts_the_chain_and_reads_the_names(tmp_path: Path) -> None:
    (tmp_path / "root.pem").write_text(ROOT.certificate)
    (tmp_path / "node.pem").write_text(node_certificate("manager"))
    verify = [
        "openssl",
        "verify",
        "-attime",
        str(NOW // SECOND + 60),
        "-x509_strict",
        "-CAfile",
        str(tmp_path / "root.pem"),
    ]
    done = subprocess.run([*verify, str(tmp_path / "node.pem")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = subprocess.run(
        [
            "openssl",
            "x509",
            "-in",
            str(tmp_path / "node.pem"),
            "-noout",
            "-subject",
            "-ext",
            "subjectAltName",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "O = c1, OU = swarm-manager, CN = n1" in shown
    assert "DNS:n1, DNS:swarm-manager" in shown


def test_a_node_cannot_issue(tmp_path: Path) -> None:
    """A certificate signed by a node's key does not verify against the root."""
    key = new_key()
    node = authority.issue(
        ROOT,
        authority.request(key),
        authority.NodeCertificate(
            node=NodeId("n1"),
            role="worker",
            cluster=ClusterId("c1"),
            begin=NOW,
            lifetime=90 * DAY,
            serial=2,
        ),
    )
    forged_root = RootCa(node, authority.private_pem(key))
    forged = authority.issue(
        forged_root,
        authority.request(new_key()),
        authority.NodeCertificate(
            node=NodeId("n2"),
            role="manager",
            cluster=ClusterId("c1"),
            begin=NOW,
            lifetime=DAY,
            serial=3,
        ),
    )
    for name, text in (("root", ROOT.certificate), ("node", node), ("forged", forged)):
        (tmp_path / name).write_text(text)
    argv = [
        "openssl",
        "verify",
        "-attime",
        str(NOW // SECOND + 60),
        "-CAfile",
        str(tmp_path / "root"),
    ]
    done = subprocess.run(
        [*argv, "-untrusted", str(tmp_path / "node"), str(tmp_path / "forged")],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0


@pytest.mark.parametrize(
    "csr", ["", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
)
def test_a_malformed_request_is_refused(csr: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot issue certificate"):
        authority.issue(
            ROOT,
            csr,
            authority.NodeCertificate(
                node=NodeId("n"),
                role="worker",
                cluster=ClusterId("c"),
                begin=NOW,
                lifetime=DAY,
                serial=1,
            ),
        )
