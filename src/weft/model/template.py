"""Templates in a service's specification, expanded for each of its tasks: the language of Go's
text/template.

    {{.Task.Slot}}   {{index .Service.Labels "com.docker.stack.namespace"}}   {{if eq .Task.Slot "1"}}first{{else}}other{{end}}

`Template(text)` parses a template and raises for a malformed one; `expand(values)` expands it.
Supported are text, `{{-` and `-}}`, comments, pipelines, parentheses, variables, `if`, `with`,
`range` (of a map), `else`, `end`, and the functions of `FUNCTIONS`. Not supported, and refused by
name, are `define`, `template`, `block`, `break`, `continue`, `call`, `html`, `js`, `urlquery`.

Time and memory of both are bounded, since users of a swarm write templates and managers parse them.

Source: the documentation of Go's text/template, and of `docker service create`, "Create services
using templates".
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NoReturn

import msgspec

from weft.errors import InvalidArgument, clip
from weft.model.template_functions import FUNCTIONS, TemplateFailure, is_true, shown

MOST_STEPS = 10_000
"""Most steps of one expansion: values looked up and functions called."""
MOST_TEXT = 128 * 1024
"""Most characters of a result: the kernel takes no longer string for a new program (MAX_ARG_STRLEN
in linux/binfmts.h)."""
MOST_TOKENS = 10_000
"""Most tokens of one template."""
MOST_ACTIONS = 5_000
"""Most actions of one template: each takes two steps to expand. A config has room for 200,000."""
MOST_TEMPLATES = 1000
"""Most templates in one specification: parsing one takes tens of microseconds, and a request has
room for 200,000."""
DEEPEST = 64
"""Deepest nesting of parentheses and blocks."""

Scope = Mapping[str, Any]
Functions = Mapping[str, Callable[..., Any]]
_ABSENT = ("define", "template", "block", "break", "continue", "call", "html", "js", "urlquery")
_TOKEN = re.compile(
    r"""(?P<space>\s+)
    | (?P<text>"(?:[^"\\\n]|\\.)*" | `[^`]*`)
    | (?P<number>[+-]?\d+(?:\.\d+)?)
    | (?P<path>\$\w*(?:\.\w+)* | (?:\.\w+)+ | \.)
    | (?P<word>[A-Za-z_]\w*)
    | (?P<close>\)(?:\.\w+)*)
    | (?P<sign>:=|=|\||\(|,)""",
    re.VERBOSE,
)
_GOES_ON = re.compile(r"[\w.]")
_TRIMS = re.compile(r"-\s")
_COMMENT = re.compile(r"\s*/\*")
_CLOSING = re.compile(r"\s+-}}|\s*}}")
_ESCAPES = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))")
_NAMED = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "\\": "\\",
    '"': '"',
    "'": "'",
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "v": "\v",
}


class Token(msgspec.Struct, frozen=True):
    kind: str
    text: str


class Literal(msgspec.Struct, frozen=True):
    value: Any


class Path(msgspec.Struct, frozen=True):
    """Successive fields of a variable, of the dot (`""`) or of a pipeline's result."""

    start: "str | Pipeline"
    fields: tuple[str, ...]


class Command(msgspec.Struct, frozen=True):
    """A function with its arguments; without a function, the only argument is the value."""

    function: str
    arguments: "tuple[Literal | Path | Command, ...]"


class Pipeline(msgspec.Struct, frozen=True):
    variables: tuple[str, ...]
    commands: tuple[Command, ...]


class Block(msgspec.Struct, frozen=True):
    """`if`, `with` or `range`, and the alternative for an empty value."""

    kind: str
    pipeline: Pipeline
    body: "tuple[Node, ...]"
    otherwise: "tuple[Node, ...]" = ()


Node = str | Pipeline | Block


class Template:
    def __init__(self, text: str, functions: Functions = FUNCTIONS) -> None:
        """`functions`: those that the template may call. Raises `InvalidArgument` for a malformed
        template."""
        self._text = text
        self._functions = functions
        try:
            self._nodes = _Parser(text, functions).nodes() if "{{" in text else (text,)
        except TemplateFailure as error:
            self._fail(error)

    def expand(
        self, values: Scope, functions: Functions | None = None, longest: int = MOST_TEXT
    ) -> str:
        """`functions`: in place of those of the template. `longest`: characters of the result.
        Raises `InvalidArgument` for fields and keys that `values` does not have, and for operations
        that a function cannot do."""
        try:
            return _Expansion(values, functions or self._functions, longest).run(self._nodes)
        except TemplateFailure as error:
            self._fail(error)

    def _fail(self, error: TemplateFailure) -> NoReturn:
        raise InvalidArgument(f"cannot expand template {clip(self._text)!r}: {error}") from error


# --- reading


class _Parser:
    def __init__(self, text: str, functions: Functions) -> None:
        self._functions = functions
        self._pieces = _pieces(text)
        self._end: list[Token] = []
        """The action that ended the last block."""
        self._depth = 0
        self._tokens: deque[Token] = deque()

    def nodes(self) -> tuple[Node, ...]:
        found = self._body()
        if self._end:
            raise TemplateFailure(f"unexpected {{{{{self._end[0].text}}}}}")
        return found

    def _body(self) -> tuple[Node, ...]:
        """Parses up to the next `else` or `end`, or to the end of the text."""
        self._end = []
        nodes: list[Node] = []
        for piece in self._pieces:
            if isinstance(piece, str):
                nodes.append(piece)
                continue
            if not piece:
                raise TemplateFailure("missing value for command")
            self._tokens = deque(piece)
            match piece[0].text if piece[0].kind == "word" else "":
                case "else" | "end":
                    self._end = piece
                    break
                case "if" | "with" | "range" as kind:
                    nodes.append(self._block(kind))
                case _:
                    nodes.append(self._whole(()))
        return tuple(nodes)

    def _block(self, kind: str) -> Block:
        self._deeper()
        self._take()
        pipeline = self._whole(("range",) if kind == "range" else ())
        body, otherwise = self._body(), tuple[Node, ...]()
        if (
            len(self._end) > 1
            and self._end[0].text == "else"
            and self._end[1].text == kind != "range"
        ):
            self._tokens = deque(self._end[1:])
            otherwise = (self._block(kind),)
        elif self._end and self._end[0].text == "else":
            if len(self._end) > 1:
                raise TemplateFailure("unexpected word after else")
            otherwise = self._body()
            self._expect_end()
        else:
            self._expect_end()
        self._depth -= 1
        return Block(kind, pipeline, body, otherwise)

    def _expect_end(self) -> None:
        if [token.text for token in self._end] != ["end"]:
            raise TemplateFailure(
                "unexpected {{else}}" if self._end else "unexpected EOF: {{end}} is missing"
            )
        self._end = []

    def _whole(self, enclosing: tuple[str, ...]) -> Pipeline:
        pipeline = self._pipeline(enclosing)
        if self._tokens:
            raise TemplateFailure(f"unexpected {clip(self._tokens[0].text)!r}")
        return pipeline

    def _pipeline(self, enclosing: tuple[str, ...] = ()) -> Pipeline:
        self._deeper()
        variables = self._variables(2 if enclosing else 1)
        commands = [self._command(False)]
        while self._tokens and self._tokens[0].text == "|" and self._tokens[0].kind == "sign":
            self._take()
            commands.append(self._command(True))
        self._depth -= 1
        return Pipeline(variables, tuple(commands))

    def _variables(self, most: int) -> tuple[str, ...]:
        texts = [token.text for token in islice(self._tokens, 4)]
        for count in range(1, most + 1):
            sign = 2 * count - 1
            names, commas = texts[0:sign:2], texts[1:sign:2]
            if len(texts) > sign and texts[sign] in (":=", "=") and set(commas) <= {","}:
                if not all(re.fullmatch(r"\$\w+", name) for name in names):
                    raise TemplateFailure(f"cannot assign to {clip(names[0])!r}")
                for _ in range(sign + 1):
                    self._take()
                return tuple(names)
        return ()

    def _command(self, piped: bool) -> Command:
        function = ""
        if (
            self._tokens
            and self._tokens[0].kind == "word"
            and self._tokens[0].text not in ("true", "false", "nil")
        ):
            function = self._take().text
            if function in _ABSENT:
                raise TemplateFailure(f"{function} is not supported by Weft")
            if function not in self._functions:
                raise TemplateFailure(f"function {clip(function)!r} not defined")
        arguments = []
        while self._tokens and (
            self._tokens[0].kind not in ("close", "sign") or self._tokens[0].text == "("
        ):
            arguments.append(self._operand())
        if not function and len(arguments) != 1:
            raise TemplateFailure(
                "missing value for command" if not arguments else "only functions have arguments"
            )
        if not function and piped:
            raise TemplateFailure("non executable command in pipeline")
        return Command(function, tuple(arguments))

    def _operand(self) -> "Literal | Path | Command":
        token = self._take()
        match token.kind:
            case "text":
                return Literal(_unquoted(token.text))
            case "number":
                return Literal(float(token.text) if "." in token.text else int(token.text))
            case "path":
                start, *fields = token.text.split(".")
                return Path(start, tuple(field for field in fields if field))
            case "word" if token.text in ("true", "false", "nil"):
                return Literal({"true": True, "false": False, "nil": None}[token.text])
            case "word" if token.text in self._functions:
                return Command(token.text, ())
            case "sign" if token.text == "(":
                pipeline = self._pipeline()
                closing = self._take() if self._tokens else Token("", "")
                if closing.kind != "close":
                    raise TemplateFailure("unclosed left paren")
                return Path(pipeline, tuple(closing.text[1:].split(".")[1:]))
        raise TemplateFailure(f"unexpected {clip(token.text)!r}")

    def _take(self) -> Token:
        if not self._tokens:
            raise TemplateFailure("missing value for command")
        return self._tokens.popleft()

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise TemplateFailure(f"it is more than {DEEPEST} levels deep")


def _pieces(text: str) -> Iterator[str | list[Token]]:
    """Plain text, and the tokens of each action; comments are left out."""
    position, trim, actions = 0, False, 0
    while position < len(text):
        start = text.find("{{", position)
        plain = text[position : start if start >= 0 else len(text)]
        plain = plain.lstrip() if trim else plain
        if start < 0:
            yield plain
            return
        start, actions = start + 2, actions + 1
        if actions > MOST_ACTIONS:
            raise TemplateFailure(f"it has more than {MOST_ACTIONS} actions")
        if _TRIMS.match(text, start):
            plain, start = plain.rstrip(), start + 1
        if plain:
            yield plain
        comment = _COMMENT.match(text, start)
        if comment is not None:
            tokens, position = None, text.find("*/", comment.end()) + 2
            if position < 2:
                raise TemplateFailure("unclosed comment")
        else:
            tokens, position = _tokens(text, start)
        ending = _CLOSING.match(text, position)
        if ending is None:
            raise TemplateFailure("unclosed action")
        trim, position = "-" in ending[0], ending.end()
        if tokens is not None:
            yield tokens


def _tokens(text: str, position: int) -> tuple[list[Token], int]:
    tokens: list[Token] = []
    while _CLOSING.match(text, position) is None:
        found = _TOKEN.match(text, position)
        if found is None:
            cause = (
                "unclosed action"
                if position >= len(text)
                else f"unexpected {clip(text[position : position + 20])!r}"
            )
            raise TemplateFailure(cause)
        position = found.end()
        if found.lastgroup == "number" and _GOES_ON.match(text, position):
            raise TemplateFailure(f"bad number syntax: {clip(found[0])!r} goes on")
        if len(tokens) > MOST_TOKENS:
            raise TemplateFailure(f"it has more than {MOST_TOKENS} words")
        if found.lastgroup != "space":
            tokens.append(Token(str(found.lastgroup), found[0]))
    return tokens, position


def _unquoted(text: str) -> str:
    if text.startswith("`"):
        return text[1:-1]

    def character(found: re.Match[str]) -> str:
        code = found[1] or found[2]
        if code is None and found[3] not in _NAMED:
            raise TemplateFailure(f"invalid escape {found[0]!r}")
        return _NAMED[found[3]] if code is None else chr(int(code, 16))

    return _ESCAPES.sub(character, text[1:-1])


# --- filling in


class _Expansion:
    def __init__(self, values: Scope, functions: Functions, longest: int) -> None:
        self._values = values
        self._functions = functions
        self._longest = longest
        self._variables: dict[str, Any] = {"$": values}
        self._written: list[str] = []
        self._steps = self._length = 0

    def run(self, nodes: Sequence[Node]) -> str:
        self._write(nodes, self._values)
        return "".join(self._written)

    def _write(self, nodes: Sequence[Node], dot: Any) -> None:
        for node in nodes:
            if isinstance(node, str):
                self._put(node)
            elif isinstance(node, Block):
                self._block(node, dot)
            else:
                value = self._pipeline(node, dot)
                if not node.variables:
                    self._put(shown(value))

    def _put(self, text: str) -> None:
        self._length += len(text)
        if self._length > self._longest:
            raise TemplateFailure(f"it becomes longer than {self._longest} characters")
        self._written.append(text)

    def _block(self, block: Block, dot: Any) -> None:
        outside = dict(self._variables)
        value = self._pipeline(block.pipeline, dot)
        if block.kind == "range":
            self._range(block, value, dot)
        elif is_true(value):
            self._write(block.body, value if block.kind == "with" else dot)
        else:
            self._write(block.otherwise, dot)
        self._variables = {name: self._variables[name] for name in outside}

    def _range(self, block: Block, value: Any, dot: Any) -> None:
        if value is not None and not isinstance(value, dict):
            raise TemplateFailure(f"range can't iterate over {clip(shown(value))}")
        names = block.pipeline.variables
        for key, item in sorted((value or {}).items()):
            self._step()
            self._variables |= dict(
                zip(names, (key, item) if len(names) == 2 else (item,), strict=False)
            )
            self._write(block.body, item)
        if not value:
            self._write(block.otherwise, dot)

    def _pipeline(self, pipeline: Pipeline, dot: Any) -> Any:
        value: tuple[Any, ...] = ()
        for command in pipeline.commands:
            value = (self._command(command, dot, value),)
        for name in pipeline.variables[:1]:
            self._variables[name] = value[0]
        return value[0]

    def _command(self, command: Command, dot: Any, piped: tuple[Any, ...]) -> Any:
        self._step()
        if not command.function:
            return self._value(command.arguments[0], dot)
        if command.function in ("and", "or"):
            return self._first(command, dot, piped)
        arguments = [*(self._value(argument, dot) for argument in command.arguments), *piped]
        try:
            return self._functions[command.function](*arguments)
        except TypeError as error:
            raise TemplateFailure(f"wrong arguments for {command.function}") from error

    def _first(self, command: Command, dot: Any, piped: tuple[Any, ...]) -> Any:
        """`and` and `or` evaluate no more arguments than necessary."""
        value: Any = None
        for argument in (*command.arguments, *map(Literal, piped)):
            value = self._value(argument, dot)
            if is_true(value) == (command.function == "or"):
                break
        return value

    def _value(self, operand: "Literal | Path | Command", dot: Any) -> Any:
        self._step()
        if isinstance(operand, Literal):
            return operand.value
        if isinstance(operand, Command):
            return self._command(operand, dot, ())
        value = self._start(operand.start, dot)
        for field in operand.fields:
            value = _field(value, field)
        return value

    def _start(self, start: "str | Pipeline", dot: Any) -> Any:
        if isinstance(start, Pipeline):
            return self._pipeline(start, dot)
        if start and start not in self._variables:
            raise TemplateFailure(f"undefined variable {clip(start)!r}")
        return self._variables[start] if start else dot

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise TemplateFailure(f"it takes more than {MOST_STEPS} steps")


def _field(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        if name not in value:
            raise TemplateFailure(f"map has no entry for key {clip(name)!r}")
        return value[name]
    if isinstance(value, Mapping) and name in value:
        return value[name]
    raise TemplateFailure(f"can't evaluate field {clip(name)!r}")


# --- what a service's specification may have as templates
