"""5,000 hostile requests, and the known ones, to the API of a node in memory with a manager."""

import asyncio
from pathlib import Path

import pytest

from tests.hostile.harness import Answer, LogWatch, wrong_with
from tests.hostile.requests import KNOWN, VALID, Request
from tests.hostile.spoiling import drafts
from tests.hostile.targets import in_memory
from weft.api.routes import ROUTES

SEEDS = 5
EACH = 1000


@pytest.mark.parametrize("seed", range(SEEDS))
def test_hostile_requests(tmp_path: Path, seed: int) -> None:
    wrong = asyncio.run(in_memory(tmp_path / "docker.sock", drafts(seed, EACH)))
    assert not wrong, "\n\n".join(wrong)


def test_requests_that_went_wrong_once(tmp_path: Path) -> None:
    wrong = asyncio.run(in_memory(tmp_path / "docker.sock", KNOWN))
    assert not wrong, "\n\n".join(wrong)


def test_the_valid_requests_are_of_the_route_table() -> None:
    assert set(VALID) <= {(method, path) for method, path, _ in ROUTES}


def test_the_same_seed_makes_the_same_requests() -> None:
    first, second, other = (
        [draft.request({}).encode() for draft in drafts(seed, 200)] for seed in (7, 7, 8)
    )
    assert first == second != other


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Answer(0), "no answer"), (Answer(400, {}, b"oh"), "without a message"),
        (Answer(500, {}, b'{"message":"internal error"}'), "500"),
        (Answer(404, {}, b'{"message":""}'), "404"), (Answer(404, {}, b"[]"), "404"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_seen(answer: Answer, text: str) -> None:
    assert text in wrong_with(Request("GET", "/info"), answer)


@pytest.mark.parametrize("status", [200, 404, 501, 503])
def test_what_is_right_is_let_be(status: int) -> None:
    assert not wrong_with(Request("GET", "/info"), Answer(status, {}, b'{"message":"no"}'))
    assert LogWatch().found == []
