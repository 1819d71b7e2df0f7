"""No regular expression of the code takes more than linear time, whatever text it is given.

Python's `re` tries every way in which a pattern can match before it gives up. A pattern with
several ways of reading one word is therefore slow when the match fails in the end: by a power of
the word's length, or exponentially. Ways are counted here on the pattern's position automaton
(Glushkov, 1961), as Weber and Seidl showed in 1991:

* exponentially many, if some position comes back to itself over one word in two ways;
* quadratically many or more, if a word leads from p to p, from p to q and from q to q.

No text is tried: the answer is about all of them. It errs to the safe side: `$` and word boundaries
are taken to hold everywhere, a long counted repetition for an endless one. `search` is a match
behind a loop that reads anything. `^` reads a mark that stands before a line, as does whatever
reads the end of one.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple

import pytest

SRC = Path(__file__).parents[1] / "src" / "weft"
FILES = [
    path
    for path in sorted(SRC.rglob("*.py"))
    if path.relative_to(SRC).parts[:2] != ("network", "trace")
]
"""The tracer reads nothing but rules that the code itself wrote."""
FUNCTIONS = {
    "compile",
    "match",
    "fullmatch",
    "search",
    "sub",
    "subn",
    "split",
    "findall",
    "finditer",
}
SEARCHING = FUNCTIONS - {"match", "fullmatch"}
"""`compile` too: what a compiled pattern is used for is not looked at, but see `anchored`."""
UNROLLED = 4
"""Repetitions up to which a count is taken exactly."""
ALPHABET = 257
"""Latin-1, and one character that stands for the others."""
BEGIN = 1 << ALPHABET
"""The mark before a line."""
EVERY = BEGIN | (BEGIN - 1)
NEWLINE = 1 << ord("\n")
CATEGORIES = {
    op.CATEGORY_DIGIT: r"\d", op.CATEGORY_NOT_DIGIT: r"\D", op.CATEGORY_SPACE: r"\s", op.CATEGORY_NOT_SPACE: r"\S",
    op.CATEGORY_WORD: r"\w", op.CATEGORY_NOT_WORD: r"\W",
}  # fmt: skip


class CannotTell(Exception):
    """The pattern has what this analysis knows nothing of: a back reference, a look-around."""


class Fragment(NamedTuple):
    """A part of a pattern: the positions that it may begin and end with, and whether it may read
    nothing."""

    first: tuple[int, ...]
    last: tuple[int, ...]
    nullable: bool


EMPTY = Fragment((), (), True)


class Automaton:
    """The positions of a pattern and which follow which. What follows in two ways stands twice."""

    def __init__(self, pattern: str, flags: int = 0) -> None:
        self.reads: list[int] = []
        """The characters that a position reads, as bits."""
        self.follow: list[list[int]] = []
        tree = parser.parse(pattern, flags)
        self._fold = bool(tree.state.flags & re.IGNORECASE)
        self.whole = self._sequence(tree)

    def search(self) -> None:
        """Puts a loop that reads anything before the pattern, as looking for it anywhere does."""
        loop = self._position(EVERY)
        self.whole = self._then(self._loop(loop), self.whole)

    # --- from the pattern to positions

    def _sequence(self, items: Any) -> Fragment:
        found = EMPTY
        for kind, value in items:
            found = self._then(found, self._item(kind, value))
        return found

    def _item(self, kind: Any, value: Any) -> Fragment:
        if kind is op.BRANCH:
            return self._either([self._sequence(branch) for branch in value[1]])
        if kind is op.SUBPATTERN:
            return self._group(*value)
        if kind is op.ATOMIC_GROUP:
            return self._sequence(value)
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
            return self._repeat(*value)
        if kind is op.AT:
            return (
                self._position(BEGIN)
                if value in (op.AT_BEGINNING, op.AT_BEGINNING_STRING)
                else EMPTY
            )
        reads = self._characters(kind, value)
        return self._position(reads | BEGIN if reads & NEWLINE else reads & ~BEGIN)

    def _group(self, number: int | None, added: int, removed: int, body: Any) -> Fragment:
        outside = self._fold
        self._fold = bool((outside or added & re.IGNORECASE) and not removed & re.IGNORECASE)
        found = self._sequence(body)
        self._fold = outside
        return found

    def _characters(self, kind: Any, value: Any) -> int:
        if kind is op.ANY:
            return EVERY & ~NEWLINE
        if kind is op.LITERAL:
            return self._one(value)
        if kind is op.NOT_LITERAL:
            return EVERY & ~self._one(value)
        if kind is op.IN:
            return self._set(value)
        raise CannotTell(f"{kind} is not understood")

    def _set(self, items: Any) -> int:
        found, negated = 0, False
        for kind, value in items:
            if kind is op.NEGATE:
                negated = True
            elif kind is op.RANGE:
                for code in range(value[0], min(value[1], ALPHABET - 1) + 1):
                    found |= self._one(code)
            elif kind is op.CATEGORY:
                found |= _category(CATEGORIES[value])
            else:
                found |= self._characters(kind, value)
        return EVERY & ~found if negated else found

    def _one(self, code: int) -> int:
        texts = {chr(code), chr(code).lower(), chr(code).upper()} if self._fold else {chr(code)}
        return sum(1 << min(ord(text), ALPHABET - 1) for text in texts if len(text) == 1)

    def _position(self, reads: int) -> Fragment:
        self.reads.append(reads)
        self.follow.append([])
        return Fragment((len(self.reads) - 1,), (len(self.reads) - 1,), False)

    def _then(self, before: Fragment, after: Fragment) -> Fragment:
        for position in before.last:
            self.follow[position] += after.first
        first = before.first + (after.first if before.nullable else ())
        last = after.last + (before.last if after.nullable else ())
        return Fragment(first, last, before.nullable and after.nullable)

    def _either(self, branches: list[Fragment]) -> Fragment:
        first = tuple(position for branch in branches for position in branch.first)
        last = tuple(position for branch in branches for position in branch.last)
        return Fragment(first, last, any(branch.nullable for branch in branches))

    def _loop(self, body: Fragment) -> Fragment:
        """Rounds that read nothing are as many ways as there are rounds."""
        for position in body.last:
            self.follow[position] += body.first * (2 if body.nullable else 1)
        return body._replace(nullable=True)

    def _repeat(self, least: int, most: Any, body: Any) -> Fragment:
        if most is op.MAXREPEAT or most > UNROLLED:
            looped = self._loop(self._sequence(body))
            return looped._replace(nullable=looped.nullable and least == 0)
        found = EMPTY
        for number in range(most):
            part = self._sequence(body)
            found = self._then(found, part if number < least else part._replace(nullable=True))
        return found

    # --- what there is to find

    def is_exponential(self) -> bool:
        """Some pair of ways leaves a position over one word, parts, and comes back to it."""
        for start in self._reachable():
            forth = _spread({(start, start)}, self._pair)
            parted = {pair for pair in forth if pair[0] != pair[1]}
            if any((start, start) in _spread({pair}, self._pair) for pair in parted):
                return True
            if any(
                self._twice(pair[0]) and (start, start) in _spread({pair}, self._pair)
                for pair in forth - parted
            ):
                return True
        return False

    def is_polynomial(self) -> bool:
        """A word leads from p to p, from p to q and from q to q."""
        positions = self._reachable()
        looping = [
            p for p in positions if p in _spread(set(self.follow[p]), lambda q: self.follow[q])
        ]
        for p in looping:
            for q in looping:
                if p != q and (p, q, q) in _spread({(p, p, q)}, self._triple):
                    return True
        return False

    def _twice(self, position: int) -> bool:
        """Something that leads back here follows in two ways."""
        doubled = {q for q in self.follow[position] if self.follow[position].count(q) > 1}
        return any(position in _spread({q}, lambda r: self.follow[r]) for q in doubled)

    def _reachable(self) -> set[int]:
        return _spread(set(self.whole.first), lambda p: self.follow[p])

    def _pair(self, at: tuple[int, int]) -> Iterator[tuple[int, int]]:
        for a in set(self.follow[at[0]]):
            for b in set(self.follow[at[1]]):
                if self.reads[a] & self.reads[b]:
                    yield a, b

    def _triple(self, at: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
        for a, b in self._pair(at[:2]):
            for c in set(self.follow[at[2]]):
                if self.reads[a] & self.reads[b] & self.reads[c]:
                    yield a, b, c


def _category(pattern: str) -> int:
    return sum(1 << code for code in range(ALPHABET) if re.fullmatch(pattern, chr(code)))


def _spread(start: set[Any], step: Callable[[Any], Any]) -> set[Any]:
    found, edge = set(start), list(start)
    while edge:
        for other in step(edge.pop()):
            if other not in found:
                found.add(other)
                edge.append(other)
    return found


def verdict(pattern: str, flags: int = 0, search: bool = False) -> str:
    """Why the pattern may not be used; empty if it may. Raises `CannotTell`."""
    automaton = Automaton(pattern, flags)
    if search:
        automaton.search()
    if automaton.is_exponential():
        return "takes exponential time"
    return "takes quadratic time or more" if automaton.is_polynomial() else ""


# --- the code


class Use(NamedTuple):
    where: str
    pattern: str | None
    """None: it is not written there."""
    flags: int
    search: bool


def uses(text: str, where: str) -> Iterator[Use]:
    """Every pattern that the source hands to `re`, or to msgspec's `Meta`."""
    tree = ast.parse(text)
    compiled = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "re.compile"
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    methods = {
        name: {
            n.func.attr  # type: ignore[attr-defined]  # `_is_method_of` has looked
            for n in ast.walk(tree)
            if _is_method_of(n, name)
        }
        for name in compiled
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name.startswith("re.") and name.removeprefix("re.") in FUNCTIONS:
            how = name.removeprefix("re.")
            if how == "compile":
                bound = [variable for variable, call in compiled.items() if call is node]
                search = not bound or not methods[bound[0]] or bool(methods[bound[0]] & SEARCHING)
            else:
                search = how in SEARCHING
            yield Use(f"{where}:{node.lineno}", _constant(node.args[0]), _flags(node), search)
        elif name.split(".")[-1] == "Meta":
            for keyword in node.keywords:
                if keyword.arg == "pattern":
                    yield Use(f"{where}:{node.lineno}", _constant(keyword.value), 0, True)


def _is_method_of(node: ast.AST, name: str) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == name
    )


def _constant(node: ast.expr) -> str | None:
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else None


def _flags(node: ast.Call) -> int:
    named = [
        argument
        for argument in [*node.args[1:], *(k.value for k in node.keywords)]
        if "re." in ast.unparse(argument)
    ]
    return int(eval(ast.unparse(named[0]), {"re": re})) if named else 0


ALL = [use for path in FILES for use in uses(path.read_text(), path.relative_to(SRC).as_posix())]


@pytest.mark.parametrize("use", ALL, ids=[use.where for use in ALL])
def test_a_pattern_takes_linear_time(use: Use) -> None:
    assert use.pattern is not None, (
        f"{use.where}: the pattern must be written there, or it cannot be judged"
    )
    assert not verdict(use.pattern, use.flags, use.search), f"{use.where}: {use.pattern!r}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SRC).as_posix())
def test_nothing_else_makes_patterns(path: Path) -> None:
    """`fnmatch` makes a regular expression of what a user wrote; `from re import …` would hide one
    from this test."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import | ast.ImportFrom)
            else []
        )
        assert "fnmatch" not in names
        assert not (isinstance(node, ast.ImportFrom) and node.module in ("re", "fnmatch"))


# --- the test itself


@pytest.mark.parametrize(
    ("pattern", "search", "wanted"),
    [
        (r"[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*", False, "exponential"),  # a service's name, once
        (r"(a+)+", False, "exponential"),
        (r"(a|aa)*b", False, "exponential"),
        (r"(a|ab|b)*c", False, "exponential"),
        (r"(?:.*a)*", False, "exponential"),
        (r"(a?){9}a{9}", False, "exponential"),
        (r"([a-zA-Z]+)*\d", False, "exponential"),
        (r"(?i:ab|AB)*!", False, "exponential"),
        (r"(?:ab|(?i:AB))*!", False, "exponential"),
        (r"\{\{\s*(.*?)\s*\}\}", False, "quadratic"),  # a template, once
        (r"a*a*b", False, "quadratic"),
        (r"\d+\d+", False, "quadratic"),
        (r".*=.*=.*", False, "quadratic"),
        (r"\s+$", True, "quadratic"),
        (r"<a.*>", True, "quadratic"),
        (r"[a-zA-Z0-9]+(?:[-_]+[a-zA-Z0-9]+)*", False, ""),
        (r"([0-9a-f]{2}:){5}[0-9a-f]{2}", False, ""),
        (r"(a|b)*c", False, ""),
        (r"(?:ab|AB)*!", False, ""),
        (r"(?m)^[ \t]*(a|b) \S+", True, ""),
        (r"\s+$", False, ""),
        (r"-n(\d+)$", True, ""),
        (r"denied|unauthorized", True, ""),
    ],
)
def test_the_analysis(pattern: str, search: bool, wanted: str) -> None:
    found = verdict(pattern, search=search)
    assert wanted in found if wanted else not found


def test_the_analysis_refuses_what_it_does_not_understand() -> None:
    for pattern in (r"(a)\1", r"(?=a)b", r"(?<!a)b"):
        with pytest.raises(CannotTell):
            verdict(pattern)


def test_patterns_are_found_in_source() -> None:
    assert len(ALL) > 10
    text = (
        'X = re.compile(r"a+", re.I)\nX.match(t)\nre.search("b", t)\nY ='
        ' re.compile(p)\nMeta(pattern="c")\n'
    )
    assert [(use.pattern, use.flags, use.search) for use in uses(text, "x.py")] == [
        ("a+", int(re.I), False), ("b", 0, True), (None, 0, True), ("c", 0, True),
    ]  # fmt: skip
