"""The tour's texts, picture and marks."""

import re

import pytest

from weft.lab.tour import MARK, PLAIN, shown
from weft.lab.tour_picture import picture
from weft.lab.tour_steps import STEPS, Step
from weft.lab.tour_texts import LANGUAGES, PHRASES, TEXTS, language, text

NAMED = [step for step in STEPS if step.name]
SENTENCE = re.compile(r"[.?!](?: |$)")


def test_each_step_is_explained_once_in_each_language() -> None:
    assert [step.name for step in NAMED] == list(TEXTS)
    for said in (*TEXTS.values(), *PHRASES.values()):
        assert len(set(said)) == len(LANGUAGES), f"{said} is translated"
    for name in TEXTS:
        for spoken in LANGUAGES:
            assert 1 <= len(SENTENCE.findall(text(name, spoken))) <= 2, name


@pytest.mark.parametrize("step", NAMED, ids=lambda step: step.name)
def test_the_picture_shows_one_place_for_each_step(step: Step) -> None:
    drawn = picture(step.place, step.host, colour=False)
    assert len(re.findall(r">[\w]+<", drawn)) == 1
    assert "@" not in drawn
    bare = re.sub("\x1b[^m]*m", "", picture(step.place, step.host, colour=True))
    same = drawn.replace(">", " ").replace("<", " ")
    assert bare.split() == same.split()


def test_a_place_of_another_host_is_on_the_right() -> None:
    left, right = (picture("overlay", host, colour=False) for host in ("node1", "node2"))
    assert left.index(">overlay<") < right.index(">overlay<")


def test_what_tells_is_marked_and_nothing_is_lost() -> None:
    step = Step("mtu", "node1", "ip address", "container", re.compile(r"mtu \d+|eth1"))
    output = "overall progress: 1 out of 3\n3: eth1: mtu 1424 up\n\nlast line"
    assert shown(output, step, colour=False) == ["3: eth1: mtu 1424 up\n", "last line"]
    first, last = shown(output, step, colour=True)
    assert first == f"3: {MARK}eth1{PLAIN}: {MARK}mtu 1424{PLAIN} up\n"
    assert last == "last line"


def test_the_language_is_that_of_the_locale() -> None:
    assert [language(name) for name in ("fr_FR.UTF-8", "FR", "C.UTF-8", "", "de_DE")] == [
        "fr", "fr", "en", "en", "en",
    ]  # fmt: skip
