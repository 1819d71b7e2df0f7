"""What `weft doctor` finds: one thing that is wrong, with its cause and what to do about it."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from weft.model.meta import Nanoseconds

Severity = Literal["critical", "error", "warning"]
"""critical: the swarm, or all of a node. error: something does not work. warning: something was
mended, or will not last."""
ORDER: tuple[Severity, ...] = ("critical", "error", "warning")
MOST_FINDINGS = 64
"""Of one node: what is wrong in a thousand places has few causes."""


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    severity: Severity
    what: str
    """The thing that is wrong."""
    cause: str
    remedy: str = ""
    """What to do."""
    node: str = ""
    """The name of the node; empty for the whole swarm, or for the node that was asked."""
    peer: str = ""
    """Data path address of another host, if the finding is about the way there."""

    def __str__(self) -> str:
        place = f"{self.node} " if self.node else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.severity} {place}{self.what}: {self.cause}{remedy}"


class Examination(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node has found on itself."""

    findings: tuple[Finding, ...] = ()
    mended: tuple[str, ...] = ()
    """What was mended because it was asked for."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was found on all nodes that were asked, the worst first."""

    findings: tuple[Finding, ...] = ()
    mended: tuple[tuple[str, str], ...] = ()
    """Name of the node, and what was mended there."""


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda f: (ORDER.index(f.severity), f.node, f.what, f.cause)))


def few(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The worst, as many as a node may tell."""
    found = ordered(findings)
    if len(found) <= MOST_FINDINGS:
        return found
    more = Finding(
        severity="warning",
        what="more findings",
        cause=f"{len(found) - MOST_FINDINGS + 1} others are not shown",
    )
    return (*found[: MOST_FINDINGS - 1], more)


def clock_difference(said: Nanoseconds, asked: Nanoseconds, heard: Nanoseconds) -> Nanoseconds:
    """How far a clock that said a time between two moments of ours is off, at least; negative if it
    is behind."""
    if said < asked:
        return said - asked
    return max(said - heard, 0)
