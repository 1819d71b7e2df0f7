"""Identifiers. Ids of swarm objects have 25 base-36 digits, ids of containers and sandboxes 64
hexadecimal digits, as in Docker Swarm.

Randomness is an argument: 17 bytes for a swarm id, 32 for a container id.
"""

from typing import NewType

ClusterId = NewType("ClusterId", str)
NodeId = NewType("NodeId", str)
NetworkId = NewType("NetworkId", str)
ServiceId = NewType("ServiceId", str)
TaskId = NewType("TaskId", str)
SecretId = NewType("SecretId", str)
ConfigId = NewType("ConfigId", str)
WorkloadId = NewType("WorkloadId", str)
"""A task's workload has the task's id."""
ContainerId = NewType("ContainerId", str)
AttachmentId = NewType("AttachmentId", str)
"""A plain container's place on a network of the swarm: the id of the task that stands for it, and of
its endpoint there."""

SWARM_ID_BYTES = 17
SWARM_ID_LENGTH = 25
CONTAINER_ID_BYTES = 32
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def base36(number: int, width: int) -> str:
    """`number` in base 36, left-padded with zeros to `width`; only the least significant `width`
    digits if it is longer."""
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def swarm_id(entropy: bytes) -> str:
    """A fresh id for a swarm object from `SWARM_ID_BYTES` random bytes."""
    if len(entropy) < SWARM_ID_BYTES:
        raise ValueError(f"a swarm id needs {SWARM_ID_BYTES} random bytes, got {len(entropy)}")
    return base36(int.from_bytes(entropy, "big"), SWARM_ID_LENGTH)


def hex_id(entropy: bytes) -> str:
    """A fresh id for a container, sandbox or endpoint from `CONTAINER_ID_BYTES` random bytes."""
    if len(entropy) != CONTAINER_ID_BYTES:
        raise ValueError(
            f"a container id needs {CONTAINER_ID_BYTES} random bytes, got {len(entropy)}"
        )
    return entropy.hex()
