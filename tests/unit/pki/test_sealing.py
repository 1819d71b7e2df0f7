"""Sealed secrets open with their key, for their id, unchanged; and with nothing else."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import OperationFailed
from weft.model import codec
from weft.model.secret import Sealed
from weft.pki.sealing import KEY_BYTES, NONCE_BYTES, SealingKey, opened, seal

KEY = SealingKey(b"k" * KEY_BYTES)
NONCE = b"n" * NONCE_BYTES


@given(st.binary(min_size=1, max_size=2000), st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES))
def test_what_is_sealed_opens_also_after_it_was_stored(data: bytes, nonce: bytes) -> None:
    sealed = codec.decode(codec.encode(seal(KEY, "id", data, nonce)), Sealed)
    assert opened(KEY, "id", sealed) == data
    assert len(data) < 8 or data not in sealed.text


@pytest.mark.parametrize("place", range(10))
def test_a_changed_secret_does_not_open(place: int) -> None:
    sealed = seal(KEY, "id", b"four and more", NONCE)
    text = bytearray(sealed.text)
    text[place] ^= 1
    with pytest.raises(OperationFailed, match="cannot open secret id"):
        opened(KEY, "id", msgspec.structs.replace(sealed, text=bytes(text)))


def test_a_secret_does_not_open_under_another_id_or_key() -> None:
    sealed = seal(KEY, "id", b"data", NONCE)
    for key, id in ((KEY, "other"), (SealingKey(b"K" * KEY_BYTES), "id")):
        with pytest.raises(OperationFailed, match=f"cannot open secret {id}"):
            opened(key, id, sealed)


def test_no_key_prints_itself() -> None:
    assert "kkk" not in repr(KEY) + str(KEY) + KEY.id
