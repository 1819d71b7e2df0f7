"""The seed of this run, which none before it had: stories are played with it beside the fixed ones,
and one that fails says how it is played again.

It is Python's own for hashes, where that is set, as `scripts/test` does: sets of strings are gone
through in the order of their hashes, so that a story is the same again only if these are.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

from weft.model.numbers import decimal

MOST = 2**32 - 1
"""Of `PYTHONHASHSEED`."""
GIVEN = decimal(os.environ.get("PYTHONHASHSEED", ""), MOST)
FRESH = random.SystemRandom().randint(1, MOST) if GIVEN is None else GIVEN


@contextmanager
def told(seed: int) -> Iterator[None]:
    """What is raised inside says with which seed."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"seed {seed}; played again with: {_command()}")
        raise


def _command() -> str:
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    but = (
        "" if GIVEN is not None else "   (but for the order of sets, which this run left to chance)"
    )
    return f"PYTHONHASHSEED={FRESH} pytest '{test}'{but}"
