"""Reads the YAML that programs write and people write by hand for settings: block and one-line maps
and lists, comments, plain and quoted scalars. What is in no file of that kind is refused: anchors,
tags, block scalars, scalars over several lines, more than one document.

Scalars are texts, whatever they look like, and an absent value is None: the reader knows the type
that it wants. So nothing depends on how YAML guesses types, and no input grows by being read."""

import re
from typing import Any, NamedTuple, NoReturn

from weft.errors import InvalidArgument, clip

_DEEPEST = 32
_LONGEST_LINE = 4096
_DOUBLE = re.compile(r'"(?:[^"\\]|\\.)*"')
_SINGLE = re.compile(r"'(?:[^']|'')*'")
_NOT_FIRST = frozenset(" \t\"'[]{}#&*!|>%@`,?:-")
_NOT_IN_KEY = frozenset("\"'[]{},")
_SPECIAL = "&*!|>%@`"
_ESCAPES = {
    "n": "\n", "t": "\t", "r": "\r", "0": "\0", '"': '"', "\\": "\\", "/": "/", " ": " ",
}  # fmt: skip
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))", re.DOTALL)


class _Line(NamedTuple):
    number: int
    indent: int
    text: str


def read(text: str) -> Any:
    """Maps, lists, texts and None. Raises `InvalidArgument` with the number of the line."""
    lines = _lines(text)
    if not lines:
        return None
    reader = _Reader(lines)
    value = reader.block(lines[0].indent, 0)
    if reader.at < len(lines):
        _refuse(lines[reader.at], "is not where it can be read: check its indentation")
    return value


def _refuse(line: _Line, cause: str) -> NoReturn:
    raise InvalidArgument(f"line {line.number}: {clip(line.text)!r} {cause}")


def _lines(text: str) -> list[_Line]:
    found = list[_Line]()
    for number, raw in enumerate(text.splitlines(), 1):
        content = _without_comment(raw).rstrip()
        bare = content.lstrip(" ")
        line = _Line(number, len(content) - len(bare), bare)
        if bare.startswith("\t"):
            _refuse(line, "is indented with a tab")
        if len(content) > _LONGEST_LINE:
            _refuse(line, f"has more than {_LONGEST_LINE} characters")
        if not bare or (bare == "---" and not found) or bare == "...":
            continue
        if bare == "---" or bare.startswith("--- "):
            _refuse(line, "begins another document")
        found.append(line)
    return found


def _without_comment(line: str) -> str:
    """A `#` begins a comment at the beginning of a line and after a space, outside quotes."""
    quote, before = "", " "
    for place, character in enumerate(line):
        if quote:
            if character == quote and not (quote == '"' and before == "\\"):
                quote = ""
            before = "" if before == "\\" else character
            continue
        if character in "\"'" and before in " [{,:-":
            quote = character
        elif character == "#" and before in " \t":
            return line[:place]
        before = character
    return line


class _Reader:
    def __init__(self, lines: list[_Line]) -> None:
        self._lines = lines
        self.at = 0

    def block(self, indent: int, depth: int) -> Any:
        line = self._lines[self.at]
        if depth > _DEEPEST:
            _refuse(line, f"is more than {_DEEPEST} levels deep")
        if _begins_item(line.text):
            return self._list(indent, depth)
        if _key(line.text) is not None:
            return self._map(indent, depth)
        self.at += 1
        return _flow(line, line.text)

    def _list(self, indent: int, depth: int) -> list[Any]:
        found = list[Any]()
        while self._is_here(indent) and _begins_item(self._lines[self.at].text):
            line = self._lines[self.at]
            rest = line.text[1:].lstrip(" ")
            if not rest:
                self.at += 1
                found.append(self._below(indent, depth))
                continue
            # What follows the dash is a block of its own that begins where it stands.
            inner = indent + len(line.text) - len(rest)
            self._lines[self.at] = _Line(line.number, inner, rest)
            found.append(self.block(inner, depth + 1))
        return found

    def _map(self, indent: int, depth: int) -> dict[str, Any]:
        found = dict[str, Any]()
        while self._is_here(indent) and (found_key := _key(self._lines[self.at].text)):
            line = self._lines[self.at]
            key = _scalar(line, found_key.written) or ""
            if key in found:
                _refuse(line, "has a key that was there before")
            rest = line.text[found_key.end :].strip()
            self.at += 1
            if rest:
                found[key] = _flow(line, rest)
            elif self._is_here(indent) and _begins_item(self._lines[self.at].text):
                found[key] = self._list(indent, depth + 1)
            else:
                found[key] = self._below(indent, depth)
        return found

    def _below(self, indent: int, depth: int) -> Any:
        """The block that is indented by more, if there is one."""
        if self.at < len(self._lines) and self._lines[self.at].indent > indent:
            return self.block(self._lines[self.at].indent, depth + 1)
        return None

    def _is_here(self, indent: int) -> bool:
        return self.at < len(self._lines) and self._lines[self.at].indent == indent


class _Key(NamedTuple):
    written: str
    end: int
    """Where its value begins."""


def _key(text: str) -> _Key | None:
    """The key of a map at the beginning of the text, if there is one."""
    if text[:1] in ('"', "'"):
        written = _beginning_quoted(text)
        colon = len(text) - len(text[len(written) :].lstrip(" "))
        is_key = bool(written) and text[colon : colon + 1] == ":"
    else:
        colon = (text + " ").find(": ")
        written = text[:colon].rstrip(" ")
        is_key = colon > 0 and text[0] not in _NOT_FIRST and not _NOT_IN_KEY & set(written)
    ends = text[colon + 1 : colon + 2] in ("", " ")
    return _Key(written, colon + 1) if is_key and ends else None


def _begins_item(text: str) -> bool:
    return text == "-" or text.startswith("- ")


def _flow(line: _Line, text: str) -> Any:
    value, rest = _flow_value(line, text, 0, ends="")
    if rest.strip():
        _refuse(line, "goes on after its value")
    return value


def _flow_value(line: _Line, text: str, depth: int, ends: str) -> tuple[Any, str]:
    """(the value at the beginning of the text, what follows it). `ends`: the characters that end a
    plain scalar, besides the end of the line."""
    text = text.lstrip()
    if depth > _DEEPEST:
        _refuse(line, f"is more than {_DEEPEST} levels deep")
    if text[:1] == "[":
        return _flow_list(line, text[1:], depth)
    if text[:1] == "{":
        return _flow_map(line, text[1:], depth)
    if text[:1] in ('"', "'"):
        quoted = _quoted(line, text)
        return _scalar(line, quoted), text[len(quoted) :]
    end = next((n for n, character in enumerate(text) if character in ends), len(text))
    return _scalar(line, text[:end].strip()), text[end:]


def _flow_list(line: _Line, text: str, depth: int) -> tuple[list[Any], str]:
    found = list[Any]()
    while not (text := text.lstrip()).startswith("]"):
        value, text = _flow_value(line, text, depth + 1, ends=",]")
        found.append(value)
        text = _next(line, text, "]")
    return found, text[1:]


def _flow_map(line: _Line, text: str, depth: int) -> tuple[dict[str, Any], str]:
    found = dict[str, Any]()
    while not (text := text.lstrip()).startswith("}"):
        found_key = _key(text)
        if found_key is None or (key := _scalar(line, found_key.written) or "") in found:
            _refuse(line, "has no key, or one that was there before, where a key must be")
        found[key], text = _flow_value(line, text[found_key.end :], depth + 1, ends=",}")
        text = _next(line, text, "}")
    return found, text[1:]


def _next(line: _Line, text: str, end: str) -> str:
    text = text.lstrip()
    if text.startswith(","):
        return text[1:]
    if not text.startswith(end):
        _refuse(line, f"has no {end!r} where it must end")
    return text


def _quoted(line: _Line, text: str) -> str:
    quoted = _beginning_quoted(text)
    if not quoted:
        _refuse(line, "has a quotation mark without its other")
    return quoted


def _beginning_quoted(text: str) -> str:
    """Empty if the text does not begin with a quoted scalar."""
    match = _DOUBLE.match(text) if text.startswith('"') else _SINGLE.match(text)
    return "" if match is None else match[0]


def _scalar(line: _Line, text: str) -> str | None:
    if text[:1] == "'":
        return text[1:-1].replace("''", "'")
    if text[:1] == '"':
        return _ESCAPE.sub(lambda match: _escaped(line, match), text[1:-1])
    if text in ("", "~", "null"):
        return None
    if text[0] in _SPECIAL or text.startswith("? ") or ": " in text or text.endswith(":"):
        _refuse(line, "has a part of YAML that is not read here: quote it if it is a text")
    return text


def _escaped(line: _Line, match: re.Match[str]) -> str:
    code = match[1] or match[2]
    if code:
        return chr(int(code, 16))
    if match[3] not in _ESCAPES:
        _refuse(line, f"has an escape that is not read here: \\{match[3]}")
    return _ESCAPES[match[3]]
