"""What a log says about its container beside each line: the labels and variables that the options
`labels`, `labels-regex`, `env` and `env-regex` choose, and the tag. Pure."""

from collections.abc import Mapping

from weft.errors import InvalidArgument, clip
from weft.model.container import Container
from weft.model.patterns import Pattern, regular_expression
from weft.model.template import Scope, Template

MOST_TAG = 1024
"""Characters of a tag: every line carries it."""
MOST_DETAILS = 4096
"""Characters of all details of a container: every line that is shown with them carries them."""


Details = tuple[tuple[str, str], ...]


def details(container: Container, host: str) -> Details:
    """The chosen labels and variables, and the tag if the user gave one, sorted by name; those that
    are too many are left out. `host`: this host's name. Raises `InvalidArgument`."""
    options, found = container.config.log_options, chosen(container)
    if options.get("tag"):
        found["tag"] = tag(options["tag"], container, host)
    kept, length = list[tuple[str, str]](), 0
    for name, value in sorted(found.items()):
        length += len(name) + len(value)
        if length <= MOST_DETAILS:
            kept.append((name, value))
    return tuple(kept)


def chosen(container: Container) -> dict[str, str]:
    """The chosen labels and variables. Raises `InvalidArgument`."""
    options = container.config.log_options
    variables = dict(line.partition("=")[::2] for line in container.env)
    return _chosen(container.config.labels, options, "labels") | _chosen(variables, options, "env")


def tag(template: str, container: Container, host: str) -> str:
    """Raises `InvalidArgument`."""
    return Template(template).expand(_values(container, host), longest=MOST_TAG)


def check(options: Mapping[str, str]) -> None:
    """Raises `InvalidArgument` for a pattern or a tag that no container could have."""
    for name in ("labels-regex", "env-regex"):
        _pattern(options, name)
    try:
        Template(options.get("tag", "")).expand(_SAMPLE, longest=MOST_TAG)
    except InvalidArgument as error:
        raise InvalidArgument(f"invalid value for tag: {error}") from None


def _chosen(values: Mapping[str, str], options: Mapping[str, str], option: str) -> dict[str, str]:
    """By name, or by a pattern that matches anywhere in the name."""
    names = options.get(option, "").split(",")
    pattern = _pattern(options, f"{option}-regex")
    return {
        name: value
        for name, value in values.items()
        if name in names or (pattern is not None and pattern.matches(name))
    }


def _pattern(options: Mapping[str, str], name: str) -> Pattern | None:
    text = options.get(name, "")
    if not text:
        return None
    pattern = regular_expression(text)
    if pattern is None:
        raise InvalidArgument(
            f"invalid value for {name}: {clip(text)}: not a regular expression, or one that Weft"
            " does not know"
        )
    return pattern


def _values(container: Container, host: str) -> Scope:
    """The fields that Docker gives to the template of a tag."""
    return {
        "ID": container.id[:12],
        "FullID": container.id,
        "Name": container.config.name,
        "ImageID": container.image.removeprefix("sha256:")[:12],
        "ImageFullID": container.image,
        "ImageName": container.config.spec.image,
        "Command": " ".join(container.args),
        "Hostname": host,
        "DaemonName": "docker",
    }


_SAMPLE: Scope = dict.fromkeys(
    (
        "ID",
        "FullID",
        "Name",
        "ImageID",
        "ImageFullID",
        "ImageName",
        "Command",
        "Hostname",
        "DaemonName",
    ),
    "x",
)
