"""The unlock key as users see it."""

import pytest

from weft.errors import InvalidArgument
from weft.pki import unlock_key
from weft.pki.sealing import SealingKey


def test_a_key_is_read_as_it_was_shown() -> None:
    key = SealingKey(bytes(range(224, 256)))
    assert unlock_key.text(key) == "SWMKEY-1-4OHi4+Tl5ufo6err7O3u7/Dx8vP09fb3+Pn6+/z9/v8"
    assert unlock_key.parse(unlock_key.text(key)) == key


@pytest.mark.parametrize("shown", ["", "nonsense", "SWMTKN-1-AAAA", "SWMKEY-1-A", "SWMKEY-1-a b?", "SWMKEY-1-é"])  # fmt: skip
def test_what_is_no_key_is_refused(shown: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid key string"):
        unlock_key.parse(shown)
