"""What is read from certificates, and chains over several roots, with the openssl command as the
oracle."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import InvalidArgument
from weft.model.cluster import Cluster, JoinTokens, RootCa, RootRotation
from weft.model.ids import ClusterId, NodeId
from weft.model.meta import SECOND
from weft.model.node import Role
from weft.pki import authority
from weft.pki.certificate import (
    Holder,
    fingerprint,
    has_key,
    holder,
    issuer_id,
    public_key_digest,
    renewal_due,
    signer_id,
    subject_and_key,
    verify,
)

NOW = 1_800_000_000 * SECOND
DAY = 24 * 3600 * SECOND
AUTHORITY = x509.BasicConstraints(True, None)


def key_of(seed: int) -> ec.EllipticCurvePrivateKey:
    return authority.make_key(lambda n: bytes([seed]) * n)


def root_of(seed: int) -> RootCa:
    return authority.root(key_of(seed), NOW, seed)


def leaf(root: RootCa, role: Role = "worker", lifetime: int = 90 * DAY, now: int = NOW) -> str:
    return authority.issue(
        root,
        authority.request(key_of(99)),
        authority.NodeCertificate(
            node=NodeId("n1"),
            role=role,
            cluster=ClusterId("c1"),
            begin=now,
            lifetime=lifetime,
            serial=2,
        ),
    )


def selfmade(
    name: str,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    days: int = 1000,
    identifier: bytes | None = None,
    constraints: x509.BasicConstraints | None = AUTHORITY,
    signer: ec.EllipticCurvePrivateKey | None = None,
) -> RootCa:
    """A root as an operator may make one."""
    begin = datetime.fromtimestamp(NOW // SECOND, UTC) - timedelta(days=1)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .serial_number(77)
        .public_key(key.public_key())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
    )
    if constraints is not None:
        builder = builder.add_extension(constraints, critical=True)
    if identifier is not None:
        builder = builder.add_extension(x509.SubjectKeyIdentifier(identifier), critical=False)
    pem = (
        builder.sign(signer or key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )
    return RootCa(pem, authority.private_pem(key))


def openssl_verifies(directory: Path, root: str, chain: str, at: int = NOW) -> bool:
    own, _, behind = chain.partition("-----END CERTIFICATE-----\n")
    texts = {"root": root, "leaf": own + "-----END CERTIFICATE-----\n", "chain": behind}
    for name, text in texts.items():
        (directory / name).write_text(text)
    argv = [
        "openssl",
        "verify",
        "-attime",
        str(at // SECOND + 60),
        "-CAfile",
        str(directory / "root"),
    ]
    argv += ["-untrusted", str(directory / "chain")] if behind else []
    return subprocess.run([*argv, str(directory / "leaf")], capture_output=True).returncode == 0


def verifies(root: str, chain: str, now: int = NOW) -> bool:
    try:
        verify(chain, root, now)
    except InvalidArgument:
        return False
    return True


def both(directory: Path, root: str, chain: str, now: int = NOW) -> bool:
    """What openssl says; ours must say the same."""
    answer = openssl_verifies(directory, root, chain, now)
    assert verifies(root, chain, now) == answer
    return answer


def test_the_way_from_root_to_root(tmp_path: Path) -> None:
    """Whoever trusts any of the roots can follow the chain to what the newest one signs, and nobody
    else."""
    first, second, third, stranger = (root_of(seed) for seed in (1, 2, 3, 4))
    to_second, to_third = (
        authority.cross_sign(first, second, NOW, 10),
        authority.cross_sign(second, third, NOW, 11),
    )
    chain = leaf(third) + to_third + to_second
    assert all(both(tmp_path, root.certificate, chain) for root in (first, second, third))
    assert not both(tmp_path, stranger.certificate, chain)
    assert not both(tmp_path, first.certificate, leaf(third) + to_third)
    assert not both(tmp_path, first.certificate, leaf(third) + to_second)
    assert both(tmp_path, third.certificate, leaf(third))
    assert not both(tmp_path, second.certificate, leaf(third))
    forged = authority.cross_sign(stranger, third, NOW, 12)
    assert not both(tmp_path, first.certificate, leaf(third) + forged)


def test_a_brought_root_and_back(tmp_path: Path) -> None:
    ours = root_of(1)
    brought = (
        selfmade("ours", key_of(5)),
        selfmade("ours", key_of(5), identifier=b"of our own making"),
        selfmade("swarm-ca", rsa.generate_private_key(65537, 2048)),
    )
    for theirs in brought:
        root = authority.brought(theirs.certificate, theirs.key, NOW)
        chain = leaf(root) + authority.cross_sign(ours, root, NOW, 3)
        assert both(tmp_path, ours.certificate, chain)
        assert both(tmp_path, root.certificate, chain)
        assert issuer_id(chain) == signer_id(root.certificate) != signer_id(ours.certificate)
        back = leaf(ours) + authority.cross_sign(root, ours, NOW, 4)
        assert both(tmp_path, root.certificate, back)


def test_what_cannot_be_the_root_of_a_swarm() -> None:
    key, other = key_of(5), key_of(6)
    good = selfmade("ours", key)
    small = rsa.generate_private_key(65537, 1024)
    for certificate, private, why in (
        (good.certificate, "", "malformed"),
        ("", good.key, "malformed"),
        (good.certificate * 2, good.key, "multiple certificates"),
        (good.certificate, authority.private_pem(other), "do not belong together"),
        (selfmade("ours", small).certificate, authority.private_pem(small), "2048"),
        (selfmade("ours", key, days=300).certificate, good.key, "expires too soon"),
        (selfmade("ours", key, constraints=None).certificate, good.key, "not one of an authority"),
        (
            selfmade("ours", key, constraints=x509.BasicConstraints(False, None)).certificate,
            good.key,
            "may not sign",
        ),
        (
            selfmade("ours", key, constraints=x509.BasicConstraints(True, 0)).certificate,
            good.key,
            "may not sign",
        ),
        (selfmade("ours", key, signer=other).certificate, good.key, "not self-signed"),
    ):
        with pytest.raises(InvalidArgument, match=why):
            authority.brought(certificate, private, NOW)


def test_who_signs_and_what_goes_behind() -> None:
    first, second, third = (root_of(seed) for seed in (1, 2, 3))
    cluster = Cluster(id=ClusterId("c1"), root_ca=first, join_tokens=JoinTokens("w", "m"))
    assert authority.signer(cluster) == (first, "")
    settled = Cluster(
        id=ClusterId("c1"),
        root_ca=second,
        join_tokens=JoinTokens("w", "m"),
        cross_signed="second by first;",
    )
    assert authority.signer(settled) == (second, "second by first;"), (
        "somebody may have missed the end of the rotation"
    )
    rotation = RootRotation(third, "third by second;")
    assert authority.signer(
        Cluster(
            id=ClusterId("c1"),
            root_ca=second,
            join_tokens=JoinTokens("w", "m"),
            rotation=rotation,
            cross_signed="second by first;",
        )
    ) == (third, "third by second;second by first;")


def test_time_counts(tmp_path: Path) -> None:
    root = root_of(1)
    certificate = leaf(root, lifetime=DAY)
    assert both(tmp_path, root.certificate, certificate, NOW + DAY // 2)
    assert not both(tmp_path, root.certificate, certificate, NOW + 2 * DAY)
    assert both(tmp_path, root.certificate, certificate, NOW - DAY + 60 * SECOND), "clocks differ"
    assert not both(tmp_path, root.certificate, certificate, NOW - DAY - 3600 * SECOND)


def test_a_node_signs_nothing(tmp_path: Path) -> None:
    root = root_of(1)
    node = RootCa(leaf(root, "manager"), authority.private_pem(key_of(99)))
    assert not both(tmp_path, root.certificate, leaf(node) + node.certificate)


def test_digests_and_names(tmp_path: Path) -> None:
    root = root_of(1)
    (tmp_path / "root").write_text(root.certificate)
    shown = subprocess.run(
        ["openssl", "x509", "-in", str(tmp_path / "root"), "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.strip().partition("=")[2].replace(":", "").lower() == fingerprint(root.certificate)
    same_key = authority.root(key_of(1), NOW + DAY, 8)
    assert fingerprint(same_key.certificate) != fingerprint(root.certificate)
    assert signer_id(same_key.certificate) == signer_id(root.certificate) == issuer_id(leaf(root))
    der = x509.load_pem_x509_certificate(leaf(root).encode()).public_bytes(
        serialization.Encoding.DER
    )
    assert issuer_id(der) == issuer_id(leaf(root))
    assert holder(der) == Holder(NodeId("n1"), "worker", ClusterId("c1"), "2", NOW + 90 * DAY)
    assert holder(leaf(root, "manager")).role == "manager"
    assert has_key(leaf(root), authority.private_pem(key_of(99)))
    assert not has_key(leaf(root), root.key)
    assert public_key_digest(authority.request(key_of(1))) == public_key_digest(
        authority.request(key_of(1))
    )
    assert subject_and_key(root.certificate)[1] == key_of(1).public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for nonsense in ("", "x", root.certificate):
        with pytest.raises(InvalidArgument):
            holder(nonsense)


@given(st.floats(0, 1), st.integers(1, 3 * 365 * 24))
def test_a_renewal_is_due_in_the_life_that_was_asked_for(fraction: float, hours: int) -> None:
    """From being issued, not from an hour before that: the shortest life is an hour."""
    lifetime = hours * 3600 * SECOND
    due = renewal_due(leaf(root_of(1), lifetime=lifetime), fraction)
    assert abs(due - (NOW + round(lifetime * fraction))) <= 2 * SECOND
