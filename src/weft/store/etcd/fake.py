"""A fake etcd in memory and in the event loop's time, with all that the store needs of etcd and all
that can go wrong.

There is one history, because agreement is etcd's affair; a member sees the history up to the point
where it was cut off. A call goes to one member and takes that member's latency, half of it before
the transaction and half after. The call needs a leader in that member's reach.
`FakeEtcd.client(name)` is a `store.etcd.base.Kv`.

    stop, start    a member is down: its clients reach nothing. If it was the leader, there is none
                   until the election. A member that was started answers nothing until there is a
                   quorum; until then there is what its manager `kept`
    cut, heal      a member is up, but cut off from the others: it answers what needs no quorum
    slow           a member's calls take that long
    lose_answers   transactions are carried out, at once or later, but the client gets `Unavailable`
    break_watches  the connections of watches end
    compact        history is discarded
    fill           a member's database is full, until it is defragmented
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from itertools import chain, count

from weft.errors import FailedPrecondition, NotFound, OperationFailed, Unavailable
from weft.store.etcd.base import (
    FULL,
    NO_MAJORITY,
    USUAL,
    Answer,
    Batch,
    Compacted,
    Compare,
    Delete,
    Member,
    MemberStatus,
    Operation,
    Range,
    Read,
    Write,
    after,
)
from weft.store.etcd.client import CALL
from weft.store.etcd.fake_keyspace import Keyspace
from weft.store.etcd.rows import Keys, from_value
from weft.store.kept import Kept

ELECTION = 1.5
"""Seconds without a leader after the loss of one."""
LATENCY = 0.001


class FakeMember:
    def __init__(self, id: int, name: str, peer_url: str, is_learner: bool) -> None:
        self.id, self.name, self.peer_url, self.is_learner = id, name, peer_url, is_learner
        self.is_up, self.is_connected = bool(name), True
        self.is_full = False
        self.answers = bool(name)
        """The member has been in touch with a quorum since its start; before that it answers
        nothing."""
        self.latency = LATENCY
        self.seen = 1
        self.connections = 0
        """Incremented to end all watches that began before."""
        self.lost: list[float | None] = []
        """For each of the next transactions: carried out at once (None) or after that many seconds,
        and not answered."""
        self.news = asyncio.Event()

    @property
    def in_touch(self) -> bool:
        return self.is_up and self.is_connected

    def tell(self) -> None:
        self.news.set()
        self.news = asyncio.Event()


class FakeEtcd:
    def __init__(self, names: Sequence[str]) -> None:
        """A cluster of these members, all up. Create it inside the running event loop."""
        self._ids = count(1)
        self.keyspace = Keyspace()
        self.roster = [
            FakeMember(next(self._ids), name, f"https://{name}:2380", False) for name in names
        ]
        self.leader: FakeMember | None = self.roster[0]
        self.leases: dict[int, tuple[int, asyncio.TimerHandle]] = {}
        """By lease: its seconds, and the timer of its end."""
        self.alarms: set[int] = set()

    def client(self, name: str) -> "FakeClient":
        return FakeClient(self, self.member(name))

    def member(self, name: str) -> FakeMember:
        return next(each for each in self.roster if each.name == name)

    # --- what can go wrong

    def stop(self, name: str) -> None:
        self.member(name).is_up = False
        self.break_watches(name)
        self._regroup()

    def start(self, name: str, peer_url: str = "") -> None:
        """Starts a member, also a new one, by the peer URL that it was added with."""
        member = next(
            each
            for each in self.roster
            if each.name == name or (not each.name and each.peer_url == peer_url)
        )
        member.name, member.is_up, member.answers = name, True, False
        self._regroup()

    def cut(self, name: str) -> None:
        self.member(name).is_connected = False
        self._regroup()

    def heal(self, name: str) -> None:
        self.member(name).is_connected = True
        self._regroup()

    def slow(self, name: str, seconds: float = LATENCY) -> None:
        self.member(name).latency = seconds

    def lose_answers(self, name: str, times: int = 1, late: float | None = None) -> None:
        self.member(name).lost += [late] * times

    def break_watches(self, name: str) -> None:
        self.member(name).connections += 1
        self.member(name).tell()

    def compact(self, revision: int = 0) -> None:
        self.keyspace.compact(revision or self.keyspace.revision)

    def fill(self, name: str) -> None:
        self.member(name).is_full = True

    def kept(self, name: str) -> Kept:
        """The state that the manager beside the member would have kept."""
        keys, seen = Keys(), self.member(name).seen
        found = {
            pair.key: pair for pair in self.keyspace.range(keys.prefix, after(keys.prefix), seen)
        }
        base = int(found[keys.base].value)
        pairs = [pair for key, pair in found.items() if key.startswith(keys.objects)]
        pairs.sort(key=lambda pair: pair.create_revision)
        objects = [
            from_value(*keys.parse(pair.key), pair.value, base + pair.mod_revision)
            for pair in pairs
        ]
        return Kept(base + found[keys.last].mod_revision, tuple(objects))

    # --- agreement

    def has_leader(self, member: FakeMember) -> bool:
        return self.leader is not None and member.in_touch

    def commit(
        self,
        compares: Sequence[Compare],
        then: Sequence[Operation],
        otherwise: Sequence[Operation] = (),
    ) -> Answer:
        for each in chain(then, otherwise):
            if isinstance(each, Write) and each.lease and each.lease not in self.leases:
                raise NotFound("etcdserver: requested lease not found")
        if any(isinstance(each, Write) for each in chain(then, otherwise)):
            self._check_space()
        answer = self.keyspace.txn(compares, then, otherwise)
        self._spread()
        return answer

    def _check_space(self) -> None:
        self.alarms |= {each.id for each in self.roster if each.is_full and each.in_touch}
        if self.alarms:
            raise OperationFailed(FULL)

    def grant(self, ttl: int, lease: int = 0) -> int:
        lease = lease or next(self._ids)
        self.leases[lease] = ttl, asyncio.get_running_loop().call_later(ttl, self._expire, lease)
        return lease

    def keep_alive(self, lease: int, more: float = 0.0) -> int:
        if lease not in self.leases:
            raise NotFound(f"lease {lease} not found")
        ttl, timer = self.leases[lease]
        timer.cancel()
        self.leases[lease] = (
            ttl,
            asyncio.get_running_loop().call_later(ttl + more, self._expire, lease),
        )
        return ttl

    def revoke(self, lease: int) -> None:
        if lease in self.leases:
            self.leases.pop(lease)[1].cancel()
            keys = [
                pair.key for pair in self.keyspace.range("\0", "\U0010ffff") if pair.lease == lease
            ]
            self.commit([], [Delete(key) for key in keys])

    def _expire(self, lease: int) -> None:
        """Only a leader ends a lease; a new leader restarts the time of each."""
        if self.leader is not None:
            self.revoke(lease)

    def _spread(self) -> None:
        for member in self.roster:
            if (
                member.in_touch
                and self.leader is not None
                and (member.seen < self.keyspace.revision or not member.answers)
            ):
                member.seen, member.answers = self.keyspace.revision, True
                member.tell()

    def _regroup(self) -> None:
        voters = [each for each in self.roster if not each.is_learner]
        group = [each for each in voters if each.in_touch]
        is_majority = 2 * len(group) > len(voters)
        if self.leader is not None and (self.leader not in group or not is_majority):
            self.leader = None
        if self.leader is None and is_majority:
            asyncio.get_running_loop().call_later(ELECTION, self._elect, group)
        self._spread()

    def _elect(self, group: Sequence[FakeMember]) -> None:
        if self.leader is None and group == [
            each for each in self.roster if each.in_touch and not each.is_learner
        ]:
            self.leader = group[0]
            for lease in self.leases:
                self.keep_alive(lease, 1.0)
            self._spread()


class FakeClient:
    """`Kv` at one member."""

    pace = USUAL

    def __init__(self, etcd: FakeEtcd, member: FakeMember) -> None:
        self._etcd, self._member = etcd, member

    async def range(
        self,
        key: str,
        end: str = "",
        *,
        limit: int = 0,
        revision: int = 0,
        serializable: bool = False,
    ) -> Range:
        await self._reach(needs_leader=not serializable)
        keyspace, seen = self._etcd.keyspace, self._member.seen
        if revision > seen:
            raise Unavailable("cannot read the store: this member of it is behind another one")
        if revision and revision < keyspace.compacted:
            raise Compacted("etcdserver: mvcc: required revision has been compacted")
        found = keyspace.range(key, end, revision or seen)
        await self._answer()
        return Range(seen, found[: limit or None], bool(limit) and len(found) > limit)

    async def txn(
        self,
        compares: Sequence[Compare],
        then: Sequence[Operation],
        otherwise: Sequence[Operation] = (),
    ) -> Answer:
        if all(isinstance(each, Read) for each in chain(then, otherwise)) and not compares:
            raise OperationFailed("an empty transaction here is a mistake")
        await self._reach()
        if self._member.lost:
            late = self._member.lost.pop(0)
            if late is None:
                self._etcd.commit(compares, then, otherwise)
            else:
                asyncio.get_running_loop().call_later(
                    late, self._etcd.commit, compares, then, otherwise
                )
            await self._answer()
            raise Unavailable(NO_MAJORITY)
        answer = self._etcd.commit(compares, then, otherwise)
        await self._answer()
        return answer

    async def watch(self, key: str, end: str, revision: int) -> AsyncGenerator[Batch, None]:
        await self._reach(needs_leader=False, patience=None)
        member, keyspace, connections = self._member, self._etcd.keyspace, self._member.connections
        is_new = True
        while True:
            if revision < keyspace.compacted:
                raise Compacted(
                    f"cannot watch the store: revisions before {keyspace.compacted} are gone"
                )
            if is_new:
                is_new = False
                yield Batch(())
                continue
            news, seen = member.news, member.seen
            if member.connections != connections:
                raise Unavailable("cannot watch the store: the connection ended")
            changes = tuple(
                change
                for written, all_changes in keyspace.since(revision)
                if written <= seen
                for change in all_changes
                if key <= change.key < end
            )
            revision = max(revision, seen + 1)
            if changes:
                yield Batch(changes)
            else:
                await news.wait()
                await asyncio.sleep(member.latency / 2)

    async def grant(self, ttl: int) -> int:
        await self._reach()
        lease = self._etcd.grant(ttl)
        await self._answer()
        return lease

    async def keep_alive(self, lease: int) -> int:
        await self._reach()
        left = self._etcd.keep_alive(lease)
        await self._answer()
        return left

    async def revoke(self, lease: int) -> None:
        await self._reach()
        self._etcd.revoke(lease)
        await self._answer()

    async def members(self) -> tuple[Member, ...]:
        await self._reach(needs_leader=False)
        return tuple(
            Member(each.id, each.name, (each.peer_url,), each.is_learner)
            for each in self._etcd.roster
        )

    async def add_learner(self, peer_url: str) -> Member:
        await self._reach()
        if any(each.peer_url == peer_url for each in self._etcd.roster):
            raise FailedPrecondition("etcdserver: Peer URLs already exists")
        if any(each.is_learner for each in self._etcd.roster):
            raise FailedPrecondition("etcdserver: too many learner members in cluster")
        member = FakeMember(next(self._etcd._ids), "", peer_url, True)
        self._etcd.roster.append(member)
        await self._answer()
        return Member(member.id, "", (peer_url,), True)

    async def promote(self, member: int) -> None:
        await self._reach()
        chosen = self._find(member)
        if not chosen.is_learner:
            raise FailedPrecondition("etcdserver: can only promote a learner member")
        if not chosen.in_touch or chosen.seen < self._etcd.keyspace.revision:
            raise FailedPrecondition(
                "etcdserver: can only promote a learner member which is in sync with leader"
            )
        chosen.is_learner = False
        self._etcd._regroup()
        await self._answer()

    async def remove_member(self, member: int) -> None:
        await self._reach()
        chosen = self._find(member)
        left = [each for each in self._etcd.roster if each is not chosen and not each.is_learner]
        if 2 * sum(each.in_touch for each in left) <= len(left):
            raise FailedPrecondition(
                "etcdserver: re-configuration failed due to not enough started members"
            )
        voters = [each for each in self._etcd.roster if not each.is_learner]
        others = sum(each.in_touch for each in voters if each is not chosen)
        if chosen.in_touch and not chosen.is_learner and others < 1 + (len(voters) - 1) // 2:
            # As etcd's strict check: first those that are out of touch have to go.
            raise FailedPrecondition("etcdserver: unhealthy cluster")
        self._etcd.roster.remove(chosen)
        chosen.is_up = False
        chosen.connections += 1
        chosen.tell()
        self._etcd._regroup()
        await self._answer()

    async def status(self) -> MemberStatus:
        await self._reach(needs_leader=False)
        leader = (
            self._etcd.leader.id if self._etcd.leader is not None and self._member.in_touch else 0
        )
        return MemberStatus(
            self._member.id,
            leader,
            self._member.seen,
            0,
            self._member.is_learner,
            is_full=bool(self._etcd.alarms),
        )

    async def alarms(self) -> frozenset[int]:
        await self._reach()
        return frozenset(self._etcd.alarms)

    async def disarm(self, member: int) -> None:
        await self._reach()
        self._etcd.alarms.discard(member)

    async def compact(self, revision: int) -> None:
        await self._reach()
        if revision <= self._etcd.keyspace.compacted:
            raise Compacted("etcdserver: mvcc: required revision has been compacted")
        self._etcd.compact(revision)

    async def defragment(self) -> None:
        await self._reach(needs_leader=False)
        self._member.is_full = False

    async def close(self) -> None:
        """Does nothing."""

    def _find(self, member: int) -> FakeMember:
        for each in self._etcd.roster:
            if each.id == member:
                return each
        raise NotFound("etcdserver: member not found")

    async def _reach(self, needs_leader: bool = True, patience: float | None = CALL) -> None:
        await asyncio.sleep(self._member.latency / 2)
        try:
            async with asyncio.timeout(patience):
                while self._member.is_up and not self._member.answers:
                    await self._member.news.wait()
        except TimeoutError:
            raise Unavailable(NO_MAJORITY) from None
        if not self._member.is_up:
            raise Unavailable("cannot reach the store: connection refused")
        if needs_leader and self._member.is_learner:
            raise FailedPrecondition("etcdserver: rpc not supported for learner")
        if needs_leader and not self._etcd.has_leader(self._member):
            raise Unavailable(NO_MAJORITY)

    async def _answer(self) -> None:
        await asyncio.sleep(self._member.latency / 2)
        if not self._member.is_up:
            raise Unavailable("cannot reach the store: the connection ended")
