"""Limits that kernels differ in. Those of memory, processors and processes every host of Weft has."""

from enum import StrEnum


class OptionalLimit(StrEnum):
    SWAP = "swap"
    SWAPPINESS = "swappiness"
    OOM_KILLER = "oom killer"
    """To keep the kernel from killing the container's processes when it has no memory left."""
    RESERVATION = "reservation"
    WEIGHT = "weight"
    """Of the container among others that use block devices."""
    DEVICE_WEIGHT = "device weight"
    READ_BYTES = "read bytes"
    WRITE_BYTES = "write bytes"
    READ_OPERATIONS = "read operations"
    WRITE_OPERATIONS = "write operations"
