"""The kernel's own IPsec as `linux.base.EspEngine`: writes a `Protection` as XFRM states and
policies, through netlink.

    state    one for each association; ours carry the reqid ESP_MARK (ICV of 64 bits) or the one
             after it (128 bits)
    policy   of datagrams to the VXLAN port, the first that fits:
             marked CLEAR_MARK    pass in clear: nftables found the VNI of a plain network
             out, by peer         ESP under the state of the sending key; marked ESP_MARK + 1, under
                                  the one with the long ICV
             out, to anybody      ESP under a state that never exists: datagrams to hosts without a
                                  peer here are dropped
             in, from anybody     ESP under one of our states, or refused

So a rule that is missing or flushed stops traffic, and never lets it pass in clear. A change is
made in this order: policies that demand ESP, new inbound states, new outbound states, policies that
use them; then the old policies and at last the old states are removed. So no packet is lost by a
rotation.

States outlive the daemon and keep their own sequence numbers. The ledger is needed only where a
state must be made again for a key that was in use (the host restarted): each new state reserves a
run of numbers, and ends with that run. While the daemon lives, it reserves the next run in time.
States and policies that are not ours by reqid and mark are never changed.
"""

import asyncio
import errno
import logging
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Literal, NamedTuple

from weft.errors import OperationFailed, cause_of
from weft.esp.sequence import BLOCK, Block
from weft.linux import netns
from weft.linux.esp.ledger import Ledger
from weft.linux.netlink import xfrm
from weft.linux.netlink.message import NetlinkError, Request
from weft.linux.netlink.socket import NETLINK_XFRM, NetlinkSocket
from weft.linux.netlink.xfrm import Policy, State, StateInfo, Template
from weft.model.encryption import Association, Protection
from weft.network.ownership import CLEAR_MARK, ESP_MARK
from weft.system.supervision import ended

log = logging.getLogger(__name__)

REQIDS = {64: ESP_MARK, 128: ESP_MARK + 1}
RUN = 64
"""Blocks of the ledger in a run, 2**28 numbers: enough for three quarters of an hour at 100,000
packets a second without the daemon, and for sixteen restarts of the host within the life of a
key."""
_TOP_UP = 30.0
"""Seconds between two checks of how much of the runs is left."""
_NO_SUCH_SPI = 1
"""Reserved (RFC 4303 section 2.1): no state has it."""
_EVERYBODY = IPv4Network("0.0.0.0/0")
_FIRST, _LONG, _PEER, _LAST = 10, 20, 30, 40
"""Priorities of policies."""
_STATISTICS = Path("/proc/net/xfrm_stat")
_MEANING = {
    "XfrmInNoStates": "unknown_spi",
    "XfrmInHdrError": "malformed",
    "XfrmInError": "malformed",
    "XfrmInNoPols": "clear",
    "XfrmInTmplMismatch": "clear",
    "XfrmInPolBlock": "clear",
    "XfrmInStateModeError": "malformed",
    "XfrmOutNoStates": "no_association",
    "XfrmOutBundleCheckError": "no_association",
    "XfrmOutStateExpired": "unreserved",
    "XfrmOutStateSeqError": "exhausted",
}
"""Our names for the namespace's counters, which count all IPsec in it."""


class _Identity(NamedTuple):
    spi: int
    destination: IPv4Address


class KernelEngine:
    """Must be made and used on one event loop's thread, in the host's namespace."""

    name: Literal["kernel"] = "kernel"

    def __init__(self, state_dir: Path) -> None:
        """`state_dir` holds the ledger and must outlive a reboot. Nothing happens before `apply`.
        Raises OperationFailed."""
        try:
            self._channel = NetlinkSocket(NETLINK_XFRM)
        except OSError as error:
            raise OperationFailed(f"cannot open XFRM netlink: {cause_of(error)}") from error
        self._directory = state_dir
        self._wanted: Protection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def apply(self, protection: Protection | None) -> None:
        """See `linux.base.EspEngine.apply`."""
        async with self._turn:
            self._wanted = protection
            try:
                await self._bring_about(protection)
            except OSError as error:
                raise OperationFailed(f"cannot apply ESP protection: {cause_of(error)}") from error
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())

    async def counters(self) -> dict[str, int]:
        """See `linux.base.EspEngine.counters`. `sealed`, `opened`, `replayed` and `forged` count
        the associations in force. `clear` counts packets that were refused because they were not
        encrypted. `clear` and the other counters are of all IPsec of the host."""
        found = dict.fromkeys(("sealed", "opened", "replayed", "forged", *_MEANING.values()), 0)
        try:
            for info in self._states().values():
                found["opened" if info.state.window else "sealed"] += info.packets
                found["replayed"] += info.repeated + info.outside_window
                found["forged"] += info.forged
            lines = _STATISTICS.read_text().splitlines()
        except OSError as error:
            raise OperationFailed(f"cannot read ESP counters: {cause_of(error)}") from error
        for name, value in (line.split() for line in lines):
            if name in _MEANING:
                found[_MEANING[name]] += int(value)
        return found

    async def close(self) -> None:
        """See `linux.base.EspEngine.close`."""
        if self._keeper is not None:
            await ended(self._keeper)
        async with self._turn:
            self._channel.close()

    # --- from the actual to the desired state

    async def _bring_about(self, protection: Protection | None) -> None:
        states, policies = self._states(), self._policies()
        inbound = _inbound(protection)
        outbound = {_identity(a): a for a in protection.outbound} if protection is not None else {}
        demands, routes = _demands(protection), _routes(protection)
        changed = {key: states[key] for key in states.keys() & (inbound.keys() | outbound.keys())}
        changed = {
            key: info
            for key, info in changed.items()
            if not _is_as(info.state, inbound.get(key) or outbound[key])
        }
        kept = states.keys() - changed.keys()
        self._do(*(xfrm.set_policy(p) for p in demands if p not in policies))
        self._do(*(xfrm.remove_state(*key) for key in changed), tolerate=errno.ESRCH)
        self._do(*(xfrm.add_state(state) for key, state in inbound.items() if key not in kept))
        await self._add_outbound([a for key, a in outbound.items() if key not in kept])
        self._do(*(xfrm.set_policy(p) for p in routes if p not in policies))
        wanted = {_unchanging(p) for p in (*routes, *demands)}
        old = [p for p in policies if _unchanging(p) not in wanted]
        old.sort(key=lambda p: p.priority == _LAST)  # policies that demand ESP go last
        self._do(*(xfrm.remove_policy(p) for p in old), tolerate=errno.ENOENT)
        gone = states.keys() - inbound.keys() - outbound.keys()
        self._do(*(xfrm.remove_state(*key) for key in gone), tolerate=errno.ESRCH)
        await self._top_up()

    async def _add_outbound(self, associations: list[Association]) -> None:
        runs = await self._reserve(associations)
        made = [
            _state(a, sent=run.next - 1, packet_limit=run.end - run.next)
            for a, run in runs.items()
            if run.next < run.end
        ]
        for association in runs.keys() - {a for a in associations if runs[a].next < runs[a].end}:
            log.error("esp.numbers_exhausted association=%r", association)
        self._do(*map(xfrm.add_state, made))

    async def _top_up(self) -> None:
        """Reserves numbers for associations that have used half of their run. A run that does not
        directly follow the last cannot be used."""
        if self._wanted is None:
            return
        states = self._states()
        low: dict[Association, StateInfo] = {}
        for association in self._wanted.outbound:
            info = states.get(_identity(association))
            limit = info.state.packet_limit if info is not None else None
            if info is not None and limit is not None and limit - info.packets < RUN * BLOCK // 2:
                low[association] = info
        for association, run in (await self._reserve(list(low))).items():
            state, packets = low[association].state, low[association].packets
            limit = state.packet_limit or 0
            if run.next == state.sent + 1 + limit - packets and run.next < run.end:
                self._do(
                    xfrm.limit_state(state._replace(packet_limit=limit + run.end - run.next)),
                    tolerate=errno.ESRCH,
                )

    async def _reserve(self, associations: list[Association]) -> dict[Association, Block]:
        return (
            await asyncio.to_thread(_reserve, self._directory, associations) if associations else {}
        )

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_TOP_UP)
            async with self._turn:
                try:
                    await self._top_up()
                except (OSError, OperationFailed) as error:
                    log.error("esp.numbers_not_reserved cause=%s", error)

    # --- netlink

    def _states(self) -> dict[_Identity, StateInfo]:
        """Our states."""
        found = [
            info
            for body in self._channel.dump(*xfrm.dump_states())
            if (info := xfrm.decode_state(body)) is not None
        ]
        return {
            _Identity(i.state.spi, i.state.destination): i
            for i in found
            if i.state.reqid in REQIDS.values()
        }

    def _policies(self) -> list[Policy]:
        """Our policies."""
        found = [xfrm.decode_policy(body) for body in self._channel.dump(*xfrm.dump_policies())]
        return [policy for policy in found if policy is not None and _is_own(policy)]

    def _do(self, *requests: Request, tolerate: int = 0) -> None:
        for position, error in self._channel.execute(requests).items() if requests else ():
            if error.errno != tolerate:
                raise NetlinkError(
                    error.errno, f"XFRM request {requests[position].type}: {cause_of(error)}"
                )


def why_not() -> str | None:
    """None if this kernel has ESP with AES-GCM and lets us use it; else what is missing. Tries it
    in a temporary namespace. Blocks."""
    state = State(
        256,
        IPv4Address("127.0.0.1"),
        IPv4Address("127.0.0.1"),
        ESP_MARK,
        bytes(20),
        64,
        window=xfrm.REPLAY_WINDOW,
    )
    policy = _routes_to(state, mark=None)

    def tried() -> None:
        channel = NetlinkSocket(NETLINK_XFRM)
        try:
            for error in channel.execute([xfrm.add_state(state), xfrm.set_policy(policy)]).values():
                raise error
            channel.execute(
                [xfrm.remove_policy(policy), xfrm.remove_state(state.spi, state.destination)]
            )
        finally:
            channel.close()

    try:
        netns.run_in_throwaway(tried)
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:
            return (
                "the kernel has no IPsec interface or no ESP (CONFIG_XFRM_USER, CONFIG_INET_ESP):"
                f" {cause_of(error)}"
            )
        if error.errno == errno.ENOSYS:
            return (
                f"the kernel has no {xfrm.AEAD} (CONFIG_CRYPTO_GCM, CONFIG_CRYPTO_SEQIV):"
                f" {cause_of(error)}"
            )
        return f"the kernel refuses an ESP state: {cause_of(error)}"
    return None


def _reserve(directory: Path, associations: list[Association]) -> dict[Association, Block]:
    ledger = Ledger(directory)
    try:
        blocks = ledger.reserve(tuple(a for a in associations for _ in range(RUN)))
    finally:
        ledger.close()
    runs = [blocks[i : i + RUN] for i in range(0, len(blocks), RUN)]
    return {a: Block(run[0].next, run[-1].end) for a, run in zip(associations, runs, strict=True)}


def _identity(association: Association) -> _Identity:
    return _Identity(association.spi, association.destination)


def _state(
    association: Association, *, window: int = 0, sent: int = 0, packet_limit: int | None = None
) -> State:
    return State(
        association.spi,
        association.source,
        association.destination,
        REQIDS[association.icv_bits],
        association.key,
        association.icv_bits,
        window,
        sent,
        packet_limit,
    )


def _inbound(protection: Protection | None) -> dict[_Identity, State]:
    if protection is None:
        return {}
    return {_identity(a): _state(a, window=xfrm.REPLAY_WINDOW) for a in protection.inbound}


def _is_as(actual: State, wanted: State | Association) -> bool:
    """Whether the state belongs to that association, regardless of its counters."""
    same_key = actual.key == wanted.key or not any(actual.key)
    same_ends = (actual.source, actual.destination) == (wanted.source, wanted.destination)
    inbound = isinstance(wanted, State)
    return (
        same_key
        and same_ends
        and actual.icv_bits == wanted.icv_bits
        and bool(actual.window) == inbound
    )


def _is_own(policy: Policy) -> bool:
    return (
        policy.template.reqid in REQIDS.values()
        if policy.template is not None
        else policy.mark == CLEAR_MARK
    )


def _unchanging(policy: Policy) -> Policy:
    """The part that identifies a policy."""
    return policy._replace(priority=0, template=None)


def _demands(protection: Protection | None) -> Iterable[Policy]:
    """Policies for all hosts: VXLAN must be encrypted, or marked as plain."""
    if protection is None:
        return ()
    host, port = IPv4Network(protection.local), protection.port
    nowhere = Template(ESP_MARK, _NO_SUCH_SPI)
    return (
        Policy(xfrm.OUT, host, _EVERYBODY, port, _FIRST, CLEAR_MARK),
        Policy(xfrm.IN, _EVERYBODY, host, port, _FIRST, CLEAR_MARK),
        Policy(xfrm.OUT, host, _EVERYBODY, port, _LAST, None, nowhere),
        Policy(xfrm.IN, _EVERYBODY, host, port, _LAST, None, Template(REQIDS[64])),
        Policy(xfrm.IN, _EVERYBODY, host, port, _LONG, ESP_MARK + 1, Template(REQIDS[128])),
    )


def _routes(protection: Protection | None) -> Iterable[Policy]:
    """Policies for each peer: the state under which to send."""
    if protection is None:
        return ()
    marks = {64: None, 128: ESP_MARK + 1}
    return [_routes_to(_state(a), marks[a.icv_bits], protection.port) for a in protection.outbound]


def _routes_to(state: State, mark: int | None, port: int = 4789) -> Policy:
    template = Template(state.reqid, state.spi, state.source, state.destination)
    ends = IPv4Network(state.source), IPv4Network(state.destination)
    return Policy(xfrm.OUT, *ends, port, _PEER if mark is None else _LONG, mark, template)
