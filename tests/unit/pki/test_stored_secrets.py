"""The secrets of the cluster object in the store: sealed, bound to their places, and read in clear
where an earlier version has left them so."""

import itertools

import msgspec
import pytest

from weft.errors import OperationFailed, Unavailable
from weft.model.cluster import Cluster, JoinTokens, RootCa, RootRotation
from weft.model.ids import ClusterId
from weft.pki import stored_secrets
from weft.pki.sealing import KEY_BYTES, SealingKey
from weft.pki.stored_secrets import FindKey, has_clear, has_sealed, opened_root, opened_tokens

KEY = SealingKey(bytes(KEY_BYTES))
ROOT, NEXT = RootCa("certificate 1", "PRIVATE 1"), RootCa("certificate 2", "PRIVATE 2")
CLEAR = Cluster(
    id=ClusterId("c"),
    root_ca=ROOT,
    rotation=RootRotation(NEXT, "crossed"),
    join_tokens=JoinTokens(worker="TOKEN w", manager="TOKEN m"),
)
NUMBERS = itertools.count(1)


def entropy(size: int) -> bytes:
    return next(NUMBERS).to_bytes(size, "big")


def sealed(cluster: Cluster) -> Cluster:
    return stored_secrets.sealed(cluster, KEY, entropy)


FIND: FindKey = {KEY.id: KEY}.get
NO_KEYS: dict[str, SealingKey] = {}


def test_the_store_shows_none_of_them_and_a_manager_with_the_key_all() -> None:
    stored = sealed(CLEAR)
    assert (has_clear(CLEAR), has_sealed(CLEAR)) == (True, False)
    assert (has_clear(stored), has_sealed(stored)) == (False, True)
    shown = msgspec.json.encode(stored)
    assert b"PRIVATE" not in shown
    assert b"TOKEN" not in shown
    assert opened_root(stored.root_ca, FIND) == ROOT
    assert stored.rotation is not None
    assert opened_root(stored.rotation.root_ca, FIND) == NEXT
    assert opened_tokens(stored, FIND) == CLEAR.join_tokens


def test_only_what_is_clear_is_sealed() -> None:
    stored = sealed(CLEAR)
    assert sealed(stored) == stored
    tokens = msgspec.structs.replace(stored.join_tokens, worker="TOKEN new")
    half = msgspec.structs.replace(stored, join_tokens=tokens)
    assert has_clear(half)
    again = sealed(half)
    assert (again.root_ca, again.join_tokens.manager) == (stored.root_ca, tokens.manager)
    assert opened_tokens(again, FIND).worker == "TOKEN new"
    empty = Cluster(id=ClusterId("c"), root_ca=RootCa("", ""), join_tokens=JoinTokens("", ""))
    assert sealed(empty) == empty
    assert not has_clear(empty)


def test_what_an_earlier_version_has_stored_is_read_without_a_key() -> None:
    assert opened_root(CLEAR.root_ca, NO_KEYS.get) == ROOT
    assert opened_tokens(CLEAR, NO_KEYS.get) == CLEAR.join_tokens


def test_without_the_key_nothing_is_opened() -> None:
    other = SealingKey(b"\1" * KEY_BYTES)
    with pytest.raises(Unavailable, match="does not have the sealing key"):
        opened_root(sealed(CLEAR).root_ca, {other.id: other}.get)


@pytest.mark.parametrize(
    "forge",
    [
        lambda c: RootCa(NEXT.certificate, c.root_ca.key),
        lambda c: RootCa(ROOT.certificate, c.rotation.root_ca.key),
        lambda c: RootCa(ROOT.certificate, c.join_tokens.manager),
        lambda c: RootCa(ROOT.certificate, c.root_ca.key[:-8]),
        lambda c: RootCa(ROOT.certificate, stored_secrets.PREFIX + "?"),
        lambda c: RootCa(ROOT.certificate, stored_secrets.PREFIX + "AAAA"),
    ],
)
def test_a_key_is_good_for_its_certificate_only(forge: object) -> None:
    assert callable(forge)
    with pytest.raises(OperationFailed, match="in the store"):
        opened_root(forge(sealed(CLEAR)), FIND)


def test_a_token_is_good_for_its_swarm_and_role_only() -> None:
    stored = sealed(CLEAR)
    worker, manager = stored.join_tokens.worker, stored.join_tokens.manager
    swapped = msgspec.structs.replace(stored, join_tokens=JoinTokens(manager, worker))
    for forged in (swapped, msgspec.structs.replace(stored, id=ClusterId("d"))):
        with pytest.raises(OperationFailed, match="it was changed in the store"):
            opened_tokens(forged, FIND)


@pytest.mark.parametrize("text", ["", "é", "!!!", "AAAA", "A"])
def test_a_damaged_secret_is_said_to_be_one(text: str) -> None:
    with pytest.raises(OperationFailed, match="damaged in the store"):
        opened_root(RootCa("certificate 1", stored_secrets.PREFIX + text), FIND)
