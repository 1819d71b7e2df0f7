"""Patterns that users write in filters, matched in linear time: Go's regular expressions and globs.

Python's `re` takes exponential time for some patterns and blocks the event loop meanwhile. This
file compiles a pattern to a program and follows all states of the program at once (Thompson, 1968):
a text of n characters takes at most n times the length of the program, which is bounded. Supported
is the part of Go's syntax (RE2) that is useful for names: literals, `.`, classes, groups, `|`,
`* + ? {m,n}`, `^ $ \\A \\z`. Flags, word boundaries and named groups are not supported.
"""

from collections.abc import Callable, Iterable

import msgspec

from weft.errors import InvalidArgument
from weft.model.numbers import decimal

MAX_LENGTH = 256
"""Characters of a pattern."""
MAX_PROGRAM = 1024
"""Steps of a compiled pattern: counted repetitions multiply steps."""
MAX_COUNT = 1000
"""RE2 has the same limit."""
MAX_DEPTH = 32
"""Levels of nested groups."""

Reads = Callable[[str], bool]
_CLASSES: dict[str, Reads] = {
    "d": lambda c: c in "0123456789",
    "s": lambda c: c in "\t\n\f\r ",
    "w": lambda c: c.isascii() and (c.isalnum() or c == "_"),
}
"""RE2's classes contain only ASCII."""
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}


class _Read(msgspec.Struct):
    reads: Reads


class _Split(msgspec.Struct):
    """Continues at both places, which are relative to the step's own."""

    to: tuple[int, ...]


class _Begin(msgspec.Struct):
    pass


class _End(msgspec.Struct):
    pass


_Step = _Read | _Split | _Begin | _End
_Program = list[_Step]
"""Places are relative, so that a part can be copied. The end of the program is a match."""


class Pattern:
    """A compiled pattern, made by `regular_expression` or `glob`."""

    def __init__(self, program: Iterable[_Step], anchored: bool) -> None:
        self._program = list(program)
        self._anchored = anchored

    def matches(self, text: str) -> bool:
        """Matches anywhere in the text; a glob must match the whole text."""
        places = self._closure({0}, True, not text)
        for index, character in enumerate(text):
            if self._is_match(places) and not self._anchored:
                return True
            after = {place + 1 for place in places if self._reads(place, character)}
            if not self._anchored:
                after.add(0)
            places = self._closure(after, False, index + 1 == len(text))
        return self._is_match(places)

    def _is_match(self, places: set[int]) -> bool:
        return len(self._program) in places

    def _reads(self, place: int, character: str) -> bool:
        step = self._program[place] if place < len(self._program) else None
        return isinstance(step, _Read) and step.reads(character)

    def _closure(self, places: set[int], begin: bool, end: bool) -> set[int]:
        """All places that can be reached without reading a character."""
        found, edge = set(places), list(places)
        while edge:
            place = edge.pop()
            step = self._program[place] if place < len(self._program) else None
            match step:
                case _Split():
                    following = {place + offset for offset in step.to}
                case _Begin() if begin:
                    following = {place + 1}
                case _End() if end:
                    following = {place + 1}
                case _:
                    continue
            edge += following - found
            found |= following
        return found


def regular_expression(text: str) -> Pattern | None:
    """None if the text is no regular expression or uses unsupported syntax. Raises
    `InvalidArgument` if the text or its program is too long."""
    _check_length(text)
    parser = _Parser(text)
    try:
        program = parser.alternatives()
        return Pattern(program, False) if not parser.rest else None
    except ValueError:
        return None


def glob(text: str) -> Pattern | None:
    """Go's `path.Match`: `*` and `?` do not match a slash. None if the text is no glob; raises as
    `regular_expression`."""
    _check_length(text)
    parser = _Parser(text)
    program: _Program = []
    try:
        while parser.rest:
            program += _glob_item(parser)
    except ValueError:
        return None
    return Pattern(program, True)


def _glob_item(parser: "_Parser") -> _Program:
    match parser.take():
        case "*":
            return _star([_Read(_no_slash)])
        case "?":
            return [_Read(_no_slash)]
        case "[":
            return [_Read(parser.characters())]
        case "\\":
            return [_Read(_literal(parser.take()))]
        case character:
            return [_Read(_literal(character))]


def _check_length(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise InvalidArgument(
            f"invalid pattern: it has {len(text)} characters, more than {MAX_LENGTH}"
        )


class _Parser:
    """Recursive descent. Raises `ValueError` for an invalid pattern."""

    def __init__(self, text: str) -> None:
        self.rest = text
        self._depth = 0

    def take(self) -> str:
        if not self.rest:
            raise ValueError("it ends too soon")
        first, self.rest = self.rest[0], self.rest[1:]
        return first

    def alternatives(self) -> _Program:
        branches = [self._sequence()]
        while self.rest.startswith("|"):
            self.take()
            branches.append(self._sequence())
        program = branches.pop()
        while branches:
            branch = branches.pop()
            program = [_Split((1, len(branch) + 2)), *branch, _Split((len(program) + 1,)), *program]
        return _bounded(program)

    def _sequence(self) -> _Program:
        program: _Program = []
        while self.rest and self.rest[0] not in "|)":
            program += self._repeated()
        return _bounded(program)

    def _repeated(self) -> _Program:
        program = self._item()
        least, most = self._count()
        if most is None:
            tail = _star(program)
        else:
            tail = []
            for _ in range(most - least):
                tail = [_Split((1, len(program) + len(tail) + 1)), *program, *_bounded(tail)]
        return _bounded([*_times(program, least), *tail])

    def _count(self) -> tuple[int, int | None]:
        """(least, most) of the repetition after an item; most None: no limit. A further `?` only
        makes the match lazy, which has no effect here."""
        first = self.rest[:1]
        counts: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if first in counts:
            self.take()
            found = counts[first]
        elif first == "{":
            found = self._braces()
        else:
            return 1, 1
        self.rest = self.rest.removeprefix("?")
        if self.rest[:1] in ("*", "+", "?", "{"):
            raise ValueError("a repetition of a repetition")
        return found

    def _braces(self) -> tuple[int, int | None]:
        inside, closed, self.rest = self.rest[1:].partition("}")
        low, comma, high = inside.partition(",")
        least = decimal(low, MAX_COUNT)
        most = least if not comma else decimal(high, MAX_COUNT)
        if (
            not closed
            or least is None
            or (most is None and high)
            or (most is not None and most < least)
        ):
            raise ValueError("not a count")
        return least, most

    def _item(self) -> _Program:
        match self.take():
            case "(":
                return self._group()
            case "[":
                return [_Read(self.characters())]
            case ".":
                return [_Read(lambda c: c != "\n")]
            case "^":
                return [_Begin()]
            case "$":
                return [_End()]
            case "\\":
                return [self._escape()]
            case "*" | "+" | "?" | "{" | ")":
                raise ValueError("nothing to repeat, or to close")
            case character:
                return [_Read(_literal(character))]

    def _group(self) -> _Program:
        self.rest = self.rest.removeprefix("?:")
        if self.rest.startswith("?") or self._depth >= MAX_DEPTH:
            raise ValueError("a group that is not ours")
        self._depth += 1
        program = self.alternatives()
        self._depth -= 1
        if self.take() != ")":
            raise ValueError("a group without an end")
        return program

    def _escape(self) -> _Step:
        match self.take():
            case "A":
                return _Begin()
            case "z":
                return _End()
            case character:
                return _Read(_escaped(character))

    def characters(self) -> Reads:
        """Parses a class after its opening bracket."""
        negated = self.rest.startswith("^")
        self.rest = self.rest.removeprefix("^")
        parts: list[Reads] = []
        while not self.rest.startswith("]") or not parts:
            parts.append(self._range())
        self.take()
        return lambda c: any(part(c) for part in parts) != negated

    def _range(self) -> Reads:
        low = self.take()
        if low == "[" and self.rest.startswith(":"):
            raise ValueError("classes with names are not ours")
        if low == "\\":
            low = self.take()
            if low.lower() in _CLASSES:
                return _escaped(low)
            low = _plain(low)
        if not self.rest.startswith("-") or self.rest.startswith("-]"):
            return _literal(low)
        self.take()
        high = self.take()
        if high == "\\":
            high = _plain(self.take())
        if high < low:
            raise ValueError("a range that ends before it begins")
        return lambda c: low <= c <= high


def _literal(character: str) -> Reads:
    return lambda c: c == character


def _no_slash(character: str) -> bool:
    return character != "/"


def _escaped(character: str) -> Reads:
    reads = _CLASSES.get(character.lower())
    if reads is None:
        return _literal(_plain(character))
    return reads if character.islower() else lambda c: not reads(c)


def _plain(character: str) -> str:
    """The character that a backslash and `character` stand for."""
    if character in _CONTROLS:
        return _CONTROLS[character]
    if character.isalnum() or not character.isascii():
        raise ValueError("an escape that means nothing here")
    return character


def _star(program: _Program) -> _Program:
    return [_Split((1, len(program) + 2)), *program, _Split((-len(program) - 1,))]


def _times(program: _Program, count: int) -> _Program:
    if len(program) * count > MAX_PROGRAM:
        raise _too_large()
    return program * count


def _bounded(program: _Program) -> _Program:
    if len(program) > MAX_PROGRAM:
        raise _too_large()
    return program


def _too_large() -> InvalidArgument:
    return InvalidArgument(f"invalid pattern: it is too complex: more than {MAX_PROGRAM} steps")
