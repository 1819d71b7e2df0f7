"""The content of the files that a task sees of its secrets and configs; templates are expanded.

A template may use what templates of a service may use, and three functions: `{{secret "target"}}`
and `{{config "target"}}` give the data of another secret or config of the same task, as it is
stored; `{{env "NAME"}}` gives a variable of the container's environment, or nothing.

Errors never quote data: what a template's failure says may be a piece of a secret.
"""

from collections.abc import Callable, Mapping
from functools import partial

from weft.errors import InvalidArgument, NotFound, clip
from weft.model.secret import DataKind, DataReference, Payload
from weft.model.service import ContainerSpec
from weft.model.template import Functions, Scope, Template
from weft.model.template_functions import PAYLOAD_FUNCTIONS, TemplateFailure

LONGEST = 1000 * 1024
"""Characters of an expanded template: the limit of a config."""

Payloads = Mapping[DataKind, Mapping[str, Payload]]
"""What is here, by kind and id."""


class _NoTarget(TemplateFailure):
    """Its text names a target and shows no data."""


def content(
    kind: DataKind,
    reference: DataReference,
    container: ContainerSpec,
    payloads: Payloads,
    values: Scope,
) -> bytes:
    """`container`: with its own templates expanded. `values`: those of `task_values`. The payload
    must be in `payloads`. Raises `NotFound` for one that is gone, `InvalidArgument` for a template
    that cannot be expanded."""
    payload = payloads[kind][reference.id]
    if payload.is_gone:
        raise NotFound(f"{kind} {reference.name} not found: it was removed")
    if not payload.templated:
        return payload.data
    functions: Functions = {
        **PAYLOAD_FUNCTIONS,
        "secret": partial(_of_target, "secret", container.secrets, payloads),
        "config": partial(_of_target, "config", container.configs, payloads),
        "env": _variables(container),
    }
    try:
        template = Template(payload.data.decode(errors="surrogateescape"), functions)
        return template.expand(values, longest=LONGEST).encode(errors="surrogateescape")
    except (InvalidArgument, UnicodeError) as error:
        cause = error.__cause__
        said = str(cause) if isinstance(cause, _NoTarget) else "its template has no value here"
        raise InvalidArgument(f"expanding {kind} {reference.name} failed: {said}") from None


def _of_target(
    kind: DataKind, references: tuple[DataReference, ...], payloads: Payloads, *arguments: object
) -> str:
    [target] = arguments if len(arguments) == 1 else [None]
    if not isinstance(target, str):
        raise _NoTarget(f"{kind} needs one target")
    for reference in references:
        if reference.target == target:
            found = payloads[kind].get(reference.id)
            if found is not None and not found.is_gone:
                return found.data.decode(errors="surrogateescape")
    raise _NoTarget(f"{kind} target {clip(target)} not found")


def _variables(container: ContainerSpec) -> Callable[..., str]:
    known = dict(line.split("=", 1) for line in reversed(container.env) if "=" in line)

    def value(*arguments: object) -> str:
        if len(arguments) != 1 or not isinstance(arguments[0], str):
            raise _NoTarget("env needs one name")
        return known.get(arguments[0], "")

    return value
