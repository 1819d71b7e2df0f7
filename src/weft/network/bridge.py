"""This node's own containers: a network namespace each."""

from collections.abc import Iterator

from weft.model.local_sandbox import LocalSandbox
from weft.network.kernel_state import Namespace
from weft.network.sandbox import SYSCTLS


def connect(place: LocalSandbox) -> Iterator[Namespace]:
    """All of one container's network."""
    wanted = place.sysctls
    yield Namespace(
        name=place.key, sysctls={key: wanted.get(key, value) for key, value in SYSCTLS.items()}
    )
