"""The filters that all `prune` requests have: `label`, `label!` and `until`."""

from collections.abc import Callable, Mapping

from weft.api.filters import Filters, label_matches
from weft.api.schema.common import parse_until
from weft.errors import InvalidArgument
from weft.model.meta import Nanoseconds

Prunable = Callable[[Mapping[str, str], Nanoseconds], bool]
"""(labels of an object, when it was made) -> whether the filters let it be removed."""


def prunable(wanted: Filters, moment: Nanoseconds) -> Prunable:
    """An object must have all of `label`; it stays if it has all of `label!`, not if it has only
    some, as in Docker (moby daemon/prune.go, `matchLabels`). `moment`: now. Raises
    `InvalidArgument`, with Docker's text for a second `until`."""
    if len(wanted.get("until", ())) > 1:
        raise InvalidArgument("more than one until filter specified")
    until = [parse_until(value, moment) for value in wanted.get("until", ())]
    labels, others = wanted.get("label", ()), wanted.get("label!", ())
    return lambda own, made_at: (
        all(label_matches(own, value) for value in labels)
        and not (others and all(label_matches(own, value) for value in others))
        and all(made_at < latest for latest in until)
    )
