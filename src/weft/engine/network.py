"""The network loop: makes the kernel's network what is desired, and keeps it so.

One loop serves the whole daemon: the swarm's part, which is there while the node is a member of a
swarm, and the part of the node's own networks (`network/desired.py`). Until both parts have been
told once the loop touches nothing: it would remove what the other part still needs. If nobody can
tell the swarm's part for now, the loop keeps the node's own networks and leaves all else as it is
(`network/unknown_swarm.py`).

Whenever these or the kernel change, the loop plans, compares and applies. It reads the kernel's
state once and remembers it. After that it reads only namespaces in which something happened, its
own changes included, which verifies them. This repairs changes by others to our namespaces. Every
`AUDIT` seconds the loop reads everything anew, for changes that were not announced.

An operation that fails does not hold up the others. After a failed batch, the remaining operations
are tried one by one, so that the cause of each failure is known. The loop tells the cause to the
tasks that need the operation (`ready` raises it), and tries again with growing pauses.

When new flows are no longer sent to a task, or begin to be, the kernel must forget the flows that
can choose anew (`network.flows`), once the rules there say so. This happens beside the rounds,
because the kernel looks through all its flows for that (9 ms where it has room for a quarter
million)."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import NamedTuple

from weft.engine.adapters import FlushFlows
from weft.engine.footprint import Failure, Footprint, links_of
from weft.errors import OperationFailed, WeftError
from weft.linux.base import Kernel
from weft.network.desired import Desired, LocalPart, SwarmPart
from weft.network.flows import Place, stale_flows
from weft.network.kernel_state import HOST, KernelState, Namespace
from weft.network.operations import ChangeTable, Operation, ReplaceTable
from weft.network.unknown_swarm import beside_swarm
from weft.system.supervision import lasting
from weft.system.tally import Histogram

log = logging.getLogger(__name__)

COALESCE = 0.015
"""Seconds that a round waits for more changes: a burst of tasks becomes one round. The first change
after a while that somebody waits for does not wait: a container that starts alone is the rule."""
BURST = 0.1
"""Seconds after a round for which changes belong to its burst."""
PATIENCE = 0.04
"""Seconds that a round waits in addition while no task waits for the round: each task that begins
to serve changes the rules of all sandboxes on its networks. This is well below the time between a
task's last new connection and its stop signal."""
AUDIT = 10.0
FIRST_RETRY, LAST_RETRY = 0.1, 5.0
FULL_PATIENCE = 20.0
"""Seconds that `repair` waits for a round."""
REMEMBERED = 64
"""Repairs that are remembered."""
MAX_SINGLE = 200
"""Operations that are tried one by one after a failure; if more are left, they are tried in one
batch once more."""

Plan = Callable[[Desired], KernelState]
Diff = Callable[[KernelState, KernelState], Sequence[Operation]]

NOTHING = KernelState({HOST: Namespace(name=HOST)})


class Mended(NamedTuple):
    """An operation that mended what others had changed."""

    operation: Operation
    at: float
    """By `perf_counter`."""

    @property
    def ago(self) -> float:
        return perf_counter() - self.at


def is_evident(operation: Operation, actual: Mapping[str, Namespace]) -> bool:
    """Whether the operation is needed because something was changed, and not only because nobody
    can tell."""
    if not isinstance(operation, ReplaceTable) or operation.namespace not in actual:
        return True
    place = operation.table.family, operation.table.name
    table = actual[operation.namespace].tables.get(place)
    return table is None or not table.unknown


def _touched(operations: Sequence[Operation]) -> set[str]:
    """Namespaces in which the operations change something."""
    ends = {space for operation in operations for space, _ in links_of(operation)}
    return ends | {operation.namespace for operation in operations}


class NetworkLoop:
    def __init__(self, kernel: Kernel, plan: Plan, diff: Diff, flush_flows: FlushFlows) -> None:
        self._kernel = kernel
        self._flush_flows = flush_flows
        self._plan = plan
        self._diff = diff
        self._swarm: SwarmPart | None = None
        self._local = LocalPart()
        self._untold = {SwarmPart, LocalPart}
        self._goes_without_swarm = False
        """Whether the loop does not wait for the swarm's part."""
        self._own_spaces: set[str] = set()
        """Namespaces of the node's own containers, of those that were told before the swarm's part
        was."""
        self._is_postponed = False
        self._desired: Desired | None = None
        """Both parts, once both have been told; or one without the other's."""
        self._actual: dict[str, Namespace] = {}
        self._dirty: set[str] = set()
        self._everything = True
        """Read all namespaces in the next round."""
        self._wake = asyncio.Event()
        self._wanted = self._known = self._done = 0
        """Generations of the desired state: the last one, the last one that this loop was given,
        and the one that the last round dealt with."""
        self._round = asyncio.Event()
        self._hurry = asyncio.Event()
        """Somebody waits for the next round."""
        self._quiet_until = 0.0
        """By the event loop's clock: what comes before belongs to the burst of the last round."""
        self._retry = FIRST_RETRY
        self.failures: tuple[Failure, ...] = ()
        """The failures of the last round."""
        self._first: Desired | None = None
        """The first desired state."""
        self._planned: KernelState | None = None
        """The plan of the last round."""
        self._planned_for = Desired()
        """What that plan was made for."""
        self._stale: set[Place] = set()
        """Flows that the kernel is to forget."""
        self._some_stale = asyncio.Event()
        self._unsettled = 0.0
        """Since when there is something desired that no round has dealt with, by `perf_counter`."""
        self.seconds = Histogram()
        """How long each round took."""
        self.operations = self.repairs = 0
        """Operations so far; those that mended what others had changed."""
        self.mended: deque[Mended] = deque(maxlen=REMEMBERED)
        """The last of these."""

    @property
    def behind(self) -> float:
        """Seconds since something was desired that no round has dealt with."""
        return 0.0 if self.is_settled else perf_counter() - self._unsettled

    def desire_swarm(self, part: SwarmPart | None) -> None:
        """Sets the swarm's part from now on; None for a node that is in no swarm."""
        self._swarm, self._is_postponed = part, False
        self._everything |= not self.knows_swarm
        self._untold.discard(SwarmPart)
        self._desire()

    def go_without_swarm(self) -> None:
        """Nobody can tell the swarm's part for now: the node's own networks do not wait for it. No
        effect if it has been told."""
        if not self.knows_swarm:
            self._goes_without_swarm = True
            self._desire()

    def desire_local(self, part: LocalPart) -> None:
        """Sets the part of the node's own networks from now on."""
        self._local = part
        self._untold.discard(LocalPart)
        if not self.knows_swarm:
            self._own_spaces |= {place.key for place in part.sandboxes}
        self._desire()

    @property
    def swarm(self) -> SwarmPart | None:
        """The swarm's part, as it was told last."""
        return self._swarm

    @property
    def knows_swarm(self) -> bool:
        """Whether it was told of the swarm's part, or that there is none."""
        return SwarmPart not in self._untold

    def postpone(self) -> None:
        """Announces a part of the swarm that may not be applied yet: callers that wait for it wait
        for the next `desire_swarm`."""
        self._is_postponed = True
        self._want()

    def _want(self) -> None:
        if self.is_settled:
            self._unsettled = perf_counter()
        self._wanted += 1

    def _desire(self) -> None:
        self._want()
        if self._untold - ({SwarmPart} if self._goes_without_swarm else set()):
            return
        self._desired = Desired(self._swarm, self._local, self.knows_swarm)
        self._first = self._first or self._desired
        if not self._is_postponed:
            self._known = self._wanted
        self._wake.set()

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(lasting("watch of the kernel", self._watch))
            group.create_task(lasting("convergence", self._converge_for_ever))
            group.create_task(lasting("stale flows", self._forget_flows))

    @property
    def is_settled(self) -> bool:
        """Whether the loop has dealt with all that was desired, successfully or not."""
        return self._done == self._wanted

    async def settled(self) -> None:
        """Returns when the loop has dealt with all that was desired before the call, successfully
        or not."""
        wanted = self._wanted
        while self._done < wanted:
            self._hurry.set()
            await self._round.wait()

    async def ready(self, sandbox: Footprint) -> None:
        """Returns when the sandbox, which must have been desired, is in the kernel. Raises
        `OperationFailed` if it cannot be."""
        await self.settled()
        for failure in self.failures:
            if failure.concerns(sandbox):
                raise OperationFailed(failure.cause)

    async def gone(self, sandbox: Footprint) -> None:
        """Returns when nothing of a sandbox that is no longer desired is left in the kernel."""
        await self.settled()
        while any(failure.keeps(sandbox) for failure in self.failures):
            await self._round.wait()

    async def differences(self) -> Sequence[Operation]:
        """What would have to be done for the kernel to be as desired, by a look at all of it: what
        others have changed and nobody has told this loop of. Nothing while more is desired than a
        round has dealt with. Raises `OperationFailed`."""
        planned = self._planned
        if not self.is_settled or planned is None:
            return ()
        actual = await self._kernel.read(planned)
        if not self.is_settled or self._planned is not planned:
            return ()
        goal = self._goal(actual, planned)
        return [each for each in self._diff(actual, goal) if is_evident(each, actual.namespaces)]

    async def repair(self) -> Sequence[Operation]:
        """Reads all of the kernel's network now, mends it, and tells what was mended. Raises
        `OperationFailed` if that takes too long."""
        begun = perf_counter()
        self._everything = True
        self._hurry.set()
        self._wake.set()
        try:
            async with asyncio.timeout(FULL_PATIENCE):
                while self._everything and self._desired is not None:
                    await self._round.wait()
        except TimeoutError:
            raise OperationFailed("cannot mend the network: no round has ended") from None
        return [each.operation for each in self.mended if each.at >= begun]

    async def leave_swarm(self) -> None:
        """Removes the swarm's part, as far as possible; then raises what could not be removed."""
        self.desire_swarm(None)
        await self.settled()
        left = [OperationFailed(f.cause) for f in self.failures if f.is_of_removal]
        if left:
            raise ExceptionGroup("cannot remove the network", left)

    # ---

    async def _watch(self) -> None:
        while True:
            try:
                self._dirty |= await self._kernel.changed()
            except WeftError as error:
                log.warning("kernel.watch_failed cause=%s", error)
                self._everything = True
                await asyncio.sleep(1)
            self._wake.set()

    async def _converge_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        next_audit = loop.time() + AUDIT
        while True:
            await self._pause(next_audit - loop.time())
            if loop.time() >= next_audit:
                self._everything = True
            if self._everything:
                next_audit = loop.time() + AUDIT
            await self._gather()
            if self._desired is not None:
                await self._converge(self._desired)

    async def _pause(self, until_audit: float) -> None:
        """Waits until somebody wakes the loop, an audit is due, or a failed operation is to be
        tried again."""
        seconds = min(until_audit, self._retry) if self.failures else until_audit
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self._wake.wait()
        except TimeoutError:
            if self.failures:
                self._retry = min(self._retry * 2, LAST_RETRY)
        self._wake.clear()

    async def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        is_first = loop.time() >= self._quiet_until
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._hurry.wait()
        if not (is_first and self._hurry.is_set()):
            await asyncio.sleep(COALESCE)
        self._hurry.clear()

    async def _converge(self, wanted: Desired) -> None:
        generation, begun = self._known, perf_counter()
        stale: set[Place] = set()
        try:
            before = self._planned or self._plan_first(stale)
            desired = self._planned = self._plan(wanted)
            self._planned_for = wanted
            stale |= stale_flows(before, desired)
            await self._read(desired)
            self.failures = tuple(await self._carry_out(desired))
        except Exception as error:
            # A mistake in one network must not end the agent of a node: it is reported, and tried
            # again.
            log.exception("network.round_failed")
            self.failures = (Failure(None, f"cannot set up the network: {error}"),)
            self._everything = True
        if not self.failures:
            self._retry = FIRST_RETRY
        # Not before: while the old rules are in force, there may be new flows of that kind.
        self._stale |= stale
        if self._stale:
            self._some_stale.set()
        self._done, self._unsettled = generation, begun
        self.seconds.add(perf_counter() - begun)
        self._quiet_until = asyncio.get_running_loop().time() + BURST
        self._round.set()
        self._round = asyncio.Event()

    def _plan_first(self, stale: set[Place]) -> KernelState:
        """The plan that a new daemon finds in force: the rules of the first desired state, or older
        ones. So every published port may be new: adds to `stale`."""
        first = NOTHING if self._first is None else self._plan(self._first)
        stale |= stale_flows(NOTHING, first)
        return first

    async def _forget_flows(self) -> None:
        while True:
            await self._some_stale.wait()
            self._some_stale.clear()
            if any(failure.operation is None for failure in self.failures):
                continue
            # Where the rules could not be changed, a flow would take the same path: done later.
            failed = {
                f.operation.namespace
                for f in self.failures
                if isinstance(f.operation, ReplaceTable | ChangeTable)
            }
            due = {place for place in self._stale if place[0] not in failed}
            self._stale -= due
            for space in sorted({space for space, _ in due}):
                try:
                    await self._flush_flows(
                        space, frozenset(stale for place, stale in due if place == space)
                    )
                except WeftError as error:
                    log.warning("flows.flush_failed namespace=%s cause=%s", space, error)

    async def _read(self, desired: KernelState) -> None:
        if self._everything:
            self._everything = False
            self._dirty.clear()
            self._actual = dict((await self._kernel.read(desired)).namespaces)
        elif self._dirty:
            names, self._dirty = self._dirty, set()
            await self._read_again(desired, names)

    async def _read_again(self, desired: KernelState, names: set[str]) -> None:
        found = await self._kernel.read(desired, only=names)
        for name in names:
            self._actual.pop(name, None)
        self._actual.update(found.namespaces)

    async def _carry_out(self, desired: KernelState) -> list[Failure]:
        """Changes the actual state to the desired one; gives the operations that failed."""
        actual = KernelState(self._actual)
        goal = self._goal(actual, desired)
        operations = self._diff(actual, goal)
        if not operations:
            self._actual = dict(goal.namespaces)
            return []
        log.info("network.apply operations=%d", len(operations))
        self.operations += len(operations)
        if self._done == self._known and not self.failures:
            # Nothing else was desired since it was so.
            mended = [each for each in operations if is_evident(each, self._actual)]
            self.repairs += len(mended)
            now = perf_counter()
            self.mended.extend(Mended(each, now) for each in mended)
        try:
            await self._kernel.apply(operations)
        except OperationFailed as error:
            log.warning("network.apply_failed cause=%s", error)
            return await self._retry_singly(desired, operations)
        # Verified when the kernel reports these very changes and the namespaces are read again.
        self._actual = dict(goal.namespaces)
        return []

    def _goal(self, actual: KernelState, planned: KernelState) -> KernelState:
        """The last round's plan, with what is left as it is found. Not by what was told since: a
        plan without the swarm's part must never be taken for a whole one."""
        if self._planned_for.knows_swarm:
            return planned
        places = self._planned_for.local.sandboxes
        shared = {place.key for place in places if place.overlays}
        gone = self._own_spaces - {place.key for place in places}
        return beside_swarm(actual, planned, shared, gone)

    async def _retry_singly(
        self, desired: KernelState, tried: Sequence[Operation]
    ) -> list[Failure]:
        """Tries the operations that are left once more, so that each failure has its cause. All
        that can be done is done by now."""
        left = await self._left_of(desired, tried)
        if len(left) > MAX_SINGLE:
            with contextlib.suppress(OperationFailed):
                await self._kernel.apply(left)
            left = await self._left_of(desired, left)
        batches: list[Sequence[Operation]] = (
            [left] if len(left) > MAX_SINGLE else [[operation] for operation in left]
        )
        failures = []
        for batch in batches:
            try:
                await self._kernel.apply(batch)
            except OperationFailed as error:
                failures += [Failure(operation, str(error)) for operation in batch]
        self._dirty |= _touched(left)
        return failures

    async def _left_of(
        self, desired: KernelState, tried: Sequence[Operation]
    ) -> Sequence[Operation]:
        """The operations that are left. Only namespaces where something was tried are read again:
        one operation that never succeeds must not make every change expensive."""
        await self._read_again(desired, _touched(tried))
        actual = KernelState(self._actual)
        return self._diff(actual, self._goal(actual, desired))
