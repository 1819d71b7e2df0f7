"""docs/compatibility.md against what is so: its routes, the fields that are refused, the versions
of the API."""

import re
from pathlib import Path

from tests.unit.api.test_decoding import wires
from weft.api import versions
from weft.api.call import Handler
from weft.api.routes import ROUTES
from weft.api.unsupported import empty, missing, refuse

PAGE = (Path(__file__).parents[3] / "docs" / "compatibility.md").read_text()
KINDS = {
    refuse("").__qualname__: "refused",
    empty([]).__qualname__: "empty",
    missing("").__qualname__: "not found",
}


def kind(handler: Handler) -> str:
    return KINDS.get(handler.__qualname__, "answered")


def test_the_page_lists_every_route_as_it_is_answered() -> None:
    is_so: dict[str, list[str]] = {}
    for method, path, handler in ROUTES:
        is_so.setdefault(path.replace("{id:.+}", "{id}"), []).append(f"{method} {kind(handler)}")
    listed = re.findall(r"^\| `(/[^`]*)` \| (.*) \|$", PAGE.partition("## Routes")[2], re.MULTILINE)
    assert {path: answers.split(", ") for path, answers in listed} == is_so
    assert set(KINDS.values()) < {
        answer.partition(" ")[2] for answers in is_so.values() for answer in answers
    }


def test_the_page_names_every_field_that_is_refused() -> None:
    named = set(
        re.findall(
            r"`(\w+)`", PAGE.partition("## Fields that are refused")[2].partition("## Routes")[0]
        )
    )
    lacking = {field for wire in wires() for field in wire.lacks}
    assert lacking
    assert lacking <= named
    assert named - lacking - {"TaskTemplate", "Spec", "Templating"} == {
        "ImageOptions", "ClusterOptions",
    }  # fmt: skip


def test_the_page_says_which_versions_are_spoken() -> None:
    assert PAGE.count(f"{versions.MIN_VERSION} to {versions.MAX_VERSION}") == 2
