"""Users' patterns: what they match, as Python's own `re` says, and that none of them takes long."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.api.filters import MAX_VALUES, name_test, parse, reference_test
from weft.errors import InvalidArgument
from weft.model.patterns import MAX_LENGTH, glob, regular_expression

ATOMS = st.sampled_from(
    [
        "a",
        "b",
        "-",
        ".",
        "\\.",
        "[ab]",
        "[^a]",
        "[a-c-]",
        "\\d",
        "\\w",
        "\\W",
        "\\-",
        "^",
        "$",
        "(?:a|)",
        "()",
    ]
)
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{0,2}", "{1,}"])).map(
            lambda x: f"(?:{x[0]}){x[1]}"
        ),
    ),
    max_leaves=8,
)
TEXTS = st.text("ab-.1", max_size=7)


@given(PATTERNS, TEXTS)
def test_a_regular_expression_matches_what_res_matches(pattern: str, text: str) -> None:
    ours = regular_expression(pattern)
    assert ours is not None
    assert ours.matches(text) == (
        re.search(pattern.replace("$", "\\Z"), text, re.ASCII) is not None
    )


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("web", "myweb1", True), ("^/web$", "/web", True), ("^/web$", "/web1", False), ("web.[0-9]+", "web.12", True),
        ("[]a]", "]", True), ("[\\]]", "]", True), ("[a\\-z]", "-", True), ("[^\\d]", "1", False), ("\\A1\\z", "1", True),
        ("(a+)+$", "a" * 60 + "!", False), ("(a|aa)*b", "a" * 60, False),
        ("(.*a){20}", "a" * 19, False), ("(a?){60}a{60}", "a" * 60, True),
    ],
)  # fmt: skip
def test_regular_expressions(pattern: str, text: str, found: bool) -> None:
    expression = regular_expression(pattern)
    assert expression is not None
    assert expression.matches(text) == found


@pytest.mark.parametrize(
    "pattern",
    ["(", ")", "a**", "*", "[", "[b-a]", "a{2,1}", "a{x}", "a{", "\\", "(?i)a", "(?=a)", "\\1", "[[:alpha:]]", "a{1001}", "(" * 40],
)  # fmt: skip
def test_what_is_no_regular_expression_matches_literally(pattern: str) -> None:
    assert regular_expression(pattern) is None
    assert name_test(pattern)(f"x{pattern}x")
    assert not name_test(pattern)("xx")


@given(st.text("()[]{}^$|*+?.\\-,0123ab:", max_size=30), TEXTS)
def test_no_text_makes_the_parser_fail_otherwise(pattern: str, text: str) -> None:
    for make in (regular_expression, glob):
        try:
            compiled = make(pattern)
        except InvalidArgument:
            continue
        if compiled is not None:
            compiled.matches(text)


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("busybox", "busybox", True), ("busy*", "busybox", True), ("busy*", "busybox/x", False), ("*/x", "busybox/x", True),
        ("b?sybox", "busybox", True), ("b?x", "b/x", False), ("[a-c]usy", "busy", True), ("[^b]usy", "busy", False),
        ("a\\*", "a*", True),
        ("*" * 60 + "x", "a" * 60, False), ("sy", "busybox", False), ("a.b", "axb", False),
    ],
)  # fmt: skip
def test_globs(pattern: str, text: str, found: bool) -> None:
    compiled = glob(pattern)
    assert compiled is not None
    assert compiled.matches(text) == found


@pytest.mark.parametrize("pattern", ["[", "[b-a]", "a\\"])
def test_what_is_no_glob_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid filter 'reference="):
        reference_test(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["a" * (MAX_LENGTH + 1), "(a{1000}){1000}", "((a{0,30}){0,30}){0,30}", "(((a?){9}){9}){9}"],
)
def test_what_is_too_long_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid pattern: it"):
        regular_expression(pattern)


def test_more_values_than_anybody_writes_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=f"more than {MAX_VALUES}"):
        parse(json.dumps({"name": [str(number) for number in range(MAX_VALUES + 1)]}), ("name",))
