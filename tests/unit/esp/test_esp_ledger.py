"""The ledger of sequence numbers: under any order of starts, crashes and failures no number is used
twice under one key."""

import shutil
import stat
import threading
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.errors import OperationFailed
from weft.esp import sequence
from weft.esp.sequence import (
    BLOCK,
    END,
    FIRST,
    NONE_LEFT,
    Block,
    Numbers,
    Reservations,
    fingerprint,
)
from weft.linux.esp.ledger import Ledger
from weft.model.encryption import Association


def association(key: int = 1, spi: int = 256) -> Association:
    return Association(
        spi=spi,
        source=IPv4Address("192.0.2.1"),
        destination=IPv4Address("192.0.2.2"),
        key=bytes([key]) * 20,
        tag=1,
    )


class Disk(Ledger):
    """A ledger whose disk fails and whose machine crashes when told to."""

    fails = ""

    def _write(self, reservations: Reservations) -> None:
        if self.fails == "before":
            raise OSError(28, "No space left on device")
        if self.fails == "half":
            self._path.with_name(f".{self._path.name}.new").write_bytes(b"half")
            raise OSError(5, "Input/output error")
        super()._write(reservations)
        if self.fails == "after":
            raise OSError(5, "Input/output error")


steps = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.sampled_from(["", "before", "half", "after"])),
        st.tuples(st.just("take"), st.integers(1, 3), st.integers(1, 9)),
        st.tuples(st.just("add"), st.integers(1, 3)),
        st.tuples(st.just("repair")),
    ),
    max_size=40,
)


@given(steps=steps, block=st.integers(1, 6))
@settings(max_examples=200)
def test_no_number_repeats(
    steps: list[tuple[Any, ...]], block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("ledger")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequence, "BLOCK", block)
        ledger = Disk(directory)
        numbers: dict[int, Numbers] = {}
        used: set[tuple[int, int]] = set()
        for verb, *arguments in steps:
            if verb == "start":
                ledger.close()
                ledger, numbers = Disk(directory), {}
                ledger.fails = arguments[0]
            elif verb == "repair":
                ledger.fails = ""
            elif verb == "add":
                reserve(ledger, numbers, arguments[0])
            else:
                take(ledger, numbers, used, *arguments)
        ledger.close()


def reserve(ledger: Ledger, numbers: dict[int, Numbers], key: int) -> None:
    """As the engine does: numbers only if the ledger gave them."""
    try:
        [block] = ledger.reserve((association(key),))
    except OperationFailed:
        return
    if key in numbers:
        if numbers[key].is_low:
            numbers[key].extend(block)
    else:
        numbers[key] = Numbers(block)


def take(
    ledger: Ledger, numbers: dict[int, Numbers], used: set[tuple[int, int]], key: int, count: int
) -> None:
    for _ in range(count if key in numbers else 0):
        number = numbers[key].take()
        assert (key, number) not in used
        if number:
            used.add((key, number))
        if numbers[key].is_low:
            reserve(ledger, numbers, key)


def test_first_block_and_the_next(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    a, b = association(1), association(2)
    assert ledger.reserve((a, b)) == (Block(FIRST, FIRST + BLOCK), Block(FIRST, FIRST + BLOCK))
    assert ledger.reserve((a,)) == (Block(FIRST + BLOCK, FIRST + 2 * BLOCK),)
    ledger.close()
    again = Ledger(tmp_path)
    assert again.reserve((a, b)) == (
        Block(1 + 2 * BLOCK, 1 + 3 * BLOCK),
        Block(1 + BLOCK, 1 + 2 * BLOCK),
    )
    again.close()
    assert stat.S_IMODE((tmp_path / "esp-ledger").stat().st_mode) == 0o600


def test_associations_that_share_a_key_share_its_numbers() -> None:
    _, blocks = Reservations().reserve((association(1), association(1, spi=300)))
    assert blocks[0].end == blocks[1].next


def test_numbers_of_a_key_end() -> None:
    a = association()
    reservations = Reservations({fingerprint(a): END - 5})
    reservations, [last] = reservations.reserve((a,))
    assert last == Block(END - 5, END)
    _, [none] = reservations.reserve((a,))
    assert none == NONE_LEFT
    numbers = Numbers(none)
    assert numbers.take() == 0
    assert numbers.is_exhausted
    assert not numbers.is_low


def test_half_a_day_of_starts_fits() -> None:
    assert 12 * 3600 / (END / BLOCK) < 64, (
        "seconds between two starts, of which the slowest are 64 apart"
    )


def test_keys_are_not_in_the_file(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.reserve((association(7),))
    ledger.close()
    assert bytes([7]) * 4 not in (tmp_path / "esp-ledger").read_bytes()


@pytest.mark.parametrize(
    "damage", [lambda d: b"", lambda d: d[:-1], lambda d: d[:20] + bytes([d[20] ^ 1]) + d[21:]]
)
def test_damaged_ledger_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    ledger = Ledger(tmp_path)
    ledger.reserve((association(),))
    ledger.close()
    path = tmp_path / "esp-ledger"
    path.write_bytes(damage(path.read_bytes()))
    left = path.read_bytes()
    for _ in range(2):  # and it keeps no lock
        with pytest.raises(OperationFailed, match="damaged .*rotate the keys, then remove"):
            Ledger(tmp_path)
    assert path.read_bytes() == left


def test_a_ledger_that_is_missing_is_not_a_first_one(tmp_path: Path) -> None:
    """Its numbers were used, under keys that are still good."""
    ledger = Ledger(tmp_path)
    ledger.reserve((association(),))
    ledger.close()
    (tmp_path / "esp-ledger").unlink()
    for _ in range(2):
        with pytest.raises(OperationFailed, match="it is missing; rotate the keys, then remove"):
            Ledger(tmp_path)
    shutil.rmtree(tmp_path)
    again = Ledger(tmp_path)
    assert again.reserve((association(),)) == (Block(FIRST, FIRST + BLOCK),)
    again.close()
    Ledger(tmp_path).close()


def test_second_engine_waits_for_the_first(tmp_path: Path) -> None:
    first = Ledger(tmp_path)
    second: list[Ledger] = []
    waits = threading.Thread(target=lambda: second.append(Ledger(tmp_path)))
    waits.start()
    [block] = first.reserve((association(),))
    assert second == []
    first.close()
    waits.join(10)
    assert second[0].reserve((association(),))[0].next == block.end
    second[0].close()
