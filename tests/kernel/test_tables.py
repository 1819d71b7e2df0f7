"""nftables' tables in the kernel: written whole, changed by elements, looked after when others
touch them, and no packet lost meanwhile.

Everything happens in namespaces that end with the test."""

import asyncio
import ctypes
import functools
import itertools
import os
import re
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import ParamSpec

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from tests.kernel.adapter_bed import inside, sh, with_kernel
from tests.unit.network.test_render import changes_between, pairs
from weft.linux import netns
from weft.linux.kernel import RealKernel
from weft.linux.netlink import link, nft_changes, nftables
from weft.linux.netlink.attributes import decode
from weft.linux.netlink.message import NetlinkError, encode_transaction
from weft.linux.netlink.socket import NETLINK_NETFILTER, NetlinkSocket
from weft.linux.nft import LIBRARY, Nft
from weft.model.assignment import ServiceRecord
from weft.model.ids import NetworkId, ServiceId
from weft.model.trace import Packet
from weft.network import nft as nft_text
from weft.network.diff import diff
from weft.network.fragments import serving
from weft.network.kernel_state import HOST, KernelState, Namespace, Table
from weft.network.loadbalancer import choice
from weft.network.operations import ChangeTable, Operation, ReplaceTable
from weft.network.render.changes import Changes, Comparison
from weft.network.render.table import text
from weft.network.service_table import Backend, Service, Services, balanced
from weft.network.trace.conntrack import Connections
from weft.network.trace.nft import Flight, parse, run

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

VIRTUAL, OTHER = IPv4Address("127.0.0.9"), IPv4Address("127.0.0.10")
SANDBOX = "0123456789ab"
GET_RULE = 7
RECORD = ServiceRecord(id=ServiceId("web"), network=NetworkId("net"), name="web")


P = ParamSpec("P")


def in_throwaway(function: Callable[P, None]) -> Callable[P, None]:
    """The test runs in a namespace of its own, and so does every command it starts."""

    @functools.wraps(function)
    def test(*arguments: P.args, **named: P.kwargs) -> None:
        netns.run_in_throwaway(lambda: function(*arguments, **named))

    return test


def service(numbers: Iterable[int], before: Service | None = None) -> Service:
    return balanced(RECORD, [Backend(IPv4Address(f"127.0.1.{n}")) for n in numbers], before)


def table_of(services: Services) -> Table:
    [made] = serving(choice(SANDBOX, IPv4Address(5)), services).tables.values()
    return made


def change(filter_: NetlinkSocket, table: Table, changes: Changes) -> None:
    """In whatever generation it is."""
    requests = nft_changes.requests(table, changes)
    now = nftables.decode_generation(filter_.ask(nftables.get_generation()))
    filter_.transact(
        nftables.begin(now), encode_transaction(requests), len(requests), nftables.end()
    )


# --- what comes of it


def content(nft: Nft, filter_: NetlinkSocket) -> tuple[list[str], list[tuple[bytes, bytes, bytes]]]:
    """The table as nft lists it, sets in order; and its rules as the kernel has them."""
    listed = re.sub(
        r"elements = \{(.*?)\}",
        lambda m: ", ".join(sorted(each.strip() for each in m[1].split(","))),
        nft.listing("ip", "weft"),
        flags=re.DOTALL,
    )
    blocks = sorted(re.findall(r"^\t(\w+ \S+ \{.*?^\t\})", listed, flags=re.DOTALL | re.MULTILINE))
    rules = [
        decode(body, 4)
        for body in filter_.dump(nftables.SUBSYSTEM << 8 | GET_RULE, struct.pack("!BBH", 2, 0, 0))
    ]
    return blocks, sorted((rule[2], rule[4], rule.get(7, b"")) for rule in rules)


@given(pairs())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("library", [LIBRARY], ids=["library"])
def test_a_table_that_was_changed_is_what_its_text_makes(
    library: ctypes.CDLL | None, pair: list[Table]
) -> None:
    def check() -> None:
        old, new = pair
        nft, filter_ = Nft(library), NetlinkSocket(NETLINK_NETFILTER)
        nft.replace(old)
        changes = Comparison().changes(old, new)
        if changes:
            change(filter_, new, changes)
        changed = content(nft, filter_)
        nft.remove("ip", "weft")
        nft.replace(new)
        assert content(nft, filter_) == changed
        nft.close()
        filter_.close()

    netns.run_in_throwaway(check)


@in_throwaway
def test_all_or_nothing_is_done_of_changes() -> None:
    nft, filter_ = Nft(), NetlinkSocket(NETLINK_NETFILTER)
    before = service(range(1, 4))
    old, new = table_of({VIRTUAL: before}), table_of({VIRTUAL: service(range(1, 8), before)})
    nft.replace(old)
    untouched = content(nft, filter_)
    changes = changes_between(old, new)
    with pytest.raises(NetlinkError, match="No such file"):
        change(filter_, new, (*changes, *changes_between(table_of({OTHER: before}), table_of({}))))
    assert content(nft, filter_) == untouched
    requests = nft_changes.requests(new, changes)
    with pytest.raises(NetlinkError) as caught:
        filter_.transact(
            nftables.begin(1), encode_transaction(requests), len(requests), nftables.end()
        )
    assert caught.value.errno == 85, "ERESTART: the generation is another one"
    change(filter_, new, changes)
    assert content(nft, filter_) != untouched
    nft.close()
    filter_.close()


def handles() -> dict[str, str]:
    """Of chains, sets and maps, in the kernel: a new one has another."""
    out = subprocess.run(
        ["nft", "-a", "list", "table", "ip", "weft"], capture_output=True, text=True, check=True
    ).stdout
    return dict(re.findall(r"(?:chain|set|map) (\S+) \{ # handle (\d+)", out))


@pytest.mark.parametrize("library", [LIBRARY, None], ids=["library", "command"])
def test_a_table_that_is_written_again_keeps_what_it_has_in_common_with_the_new_one(
    library: ctypes.CDLL | None,
) -> None:
    def check() -> None:
        nft, filter_ = Nft(library), NetlinkSocket(NETLINK_NETFILTER)
        one, other = named_set("gone", "ipv4_addr", "10.0.0.1"), named_set("new", "ipv4_addr")
        first, second = (
            table_of({VIRTUAL: service([1])}),
            table_of({VIRTUAL: service([1, 2]), OTHER: service([3])}),
        )
        nft.replace(with_body(first, one, nft_text.chain("alone", "accept")))
        before = handles()
        wanted = with_body(second, other)
        nft.replace(wanted)
        there, after = content(nft, filter_), handles()
        kept = before.keys() - {"gone", "alone"}
        assert after.keys() == kept | {"new", f"vip-{OTHER}"}
        assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
        nft.remove("ip", "weft")
        nft.replace(wanted)
        assert content(nft, filter_) == there, "it is what a table that was not there is"
        nft.replace(with_body(second, named_set("new", "inet_service", "80")))
        assert "80" in nft.listing("ip", "weft")
        nft.replace(wanted, {nft_text.Object("chain", "nowhere", "")})
        assert content(nft, filter_) == there, "also where what is there was not known"
        nft.close()
        filter_.close()

    netns.run_in_throwaway(check)


def named_set(name: str, type_: str, *content: str) -> str:
    return nft_text.elements(f"set {name}", f"type {type_}", list(content))


def with_body(table: Table, *blocks: str) -> Table:
    return msgspec.structs.replace(table, body="\n".join((*blocks, table.body)))


# --- packets meanwhile


def written(nft: Nft, filter_: NetlinkSocket, tables: Iterator[Table]) -> None:
    """All of it, over and over."""
    for table in itertools.islice(tables, 600):
        nft.replace(table)


def changed(nft: Nft, filter_: NetlinkSocket, tables: Iterator[Table]) -> None:
    last = next(tables)
    nft.replace(last)
    for table in itertools.islice(tables, 5000):
        change(filter_, table, changes_between(last, table))
        last = table


def other_services() -> Iterator[Table]:
    """Tables in which another service comes and goes."""
    kept, other = service([1, 2, 3]), service([4])
    return itertools.cycle([table_of({VIRTUAL: kept}), table_of({VIRTUAL: kept, OTHER: other})])


def other_backends() -> Iterator[Table]:
    """Each slot gets another backend each time."""
    return itertools.cycle(
        [table_of({VIRTUAL: service(numbers)}) for numbers in ([1, 2, 3], [4, 5, 6])]
    )


def other_sizes() -> Iterator[Table]:
    """The ring gets another size each time: all slots another place, and the rule another count."""
    counts = (1, 3, 6, 2, 5)
    return itertools.cycle([table_of({VIRTUAL: service(range(1, n + 1))}) for n in counts])


@pytest.mark.parametrize("how", [written, changed])
@pytest.mark.parametrize("tables", [other_services, other_backends, other_sizes])
@in_throwaway
def test_no_connection_is_refused_while_what_translates_it_changes(
    how: Callable[[Nft, NetlinkSocket, Iterator[Table]], None],
    tables: Callable[[], Iterator[Table]],
) -> None:
    nft, filter_, done = Nft(), NetlinkSocket(NETLINK_NETFILTER), threading.Event()
    refused: list[OSError] = []
    route = NetlinkSocket()
    route.execute([link.loopback_up()])
    nft.replace(next(tables()))
    with socket.create_server(("0.0.0.0", 8000), backlog=4096) as server:
        server.settimeout(5)
        sh(f"nft add table ip guard; nft 'add chain ip guard in {{ type filter hook input priority 0; }}'; "
           f"nft add rule ip guard in ip daddr {VIRTUAL} reject with tcp reset")  # fmt: skip

        def ask() -> None:
            while not done.is_set():
                try:
                    with (
                        socket.create_connection((str(VIRTUAL), 8000)) as connection,
                        server.accept()[0],
                    ):
                        connection.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, bytes((1, 0, 0, 0, 0, 0, 0, 0))
                        )
                except OSError as error:
                    refused.append(error)

        client = threading.Thread(target=ask)  # in this thread's namespace
        client.start()
        how(nft, filter_, tables())
        done.set()
        client.join()
    for opened in (nft, filter_, route):
        opened.close()
    assert refused == []


@in_throwaway
def test_the_kernel_keeps_a_client_with_the_task_that_its_address_means() -> None:
    """The interpreter of the walk computes the same hash."""
    sticky = msgspec.structs.replace(RECORD, affinity="client-address")
    backends = [Backend(IPv4Address(f"127.0.1.{n}")) for n in (1, 2, 3)]
    table = table_of({VIRTUAL: balanced(sticky, backends)})
    nft, filter_, route = Nft(), NetlinkSocket(NETLINK_NETFILTER), NetlinkSocket()
    route.execute([link.loopback_up()])
    nft.replace(table_of({VIRTUAL: service([1, 2, 3])}))
    change(filter_, table, changes_between(table_of({VIRTUAL: service([1, 2, 3])}), table))
    rules = parse(text(table))
    reached: dict[str, set[str]] = {}
    with socket.create_server(("0.0.0.0", 8000)) as server:
        for client in [f"127.0.2.{n}" for n in range(1, 21)]:
            for _ in range(5):
                with (
                    socket.create_connection((str(VIRTUAL), 8000), 5, (client, 0)),
                    server.accept()[0] as accepted,
                ):
                    reached.setdefault(client, set()).add(accepted.getsockname()[0])
            packet = Packet("tcp", IPv4Address(client), 40000, VIRTUAL, 8000)
            flight = Flight(packet, lambda _: True, {}, Connections())
            word = run(rules, rules.chains["vip-nat-out"], flight).word
            assert {word} == {f"dnat {address}" for address in reached[client]}
    for opened in (nft, filter_, route):
        opened.close()
    assert {home for homes in reached.values() for home in homes} == {
        str(backend.address) for backend in backends
    }


# --- who else writes


def state_of(table: Table) -> KernelState:
    return KernelState(
        {
            HOST: Namespace(name=HOST),
            SANDBOX: Namespace(name=SANDBOX, tables={("ip", "weft"): table}),
        }
    )


async def become(kernel: RealKernel, table: Table) -> list[Operation]:
    desired = state_of(table)
    operations = diff(await kernel.read(desired), desired)
    await kernel.apply(operations)
    return operations


async def seen(kernel: RealKernel) -> Table:
    return (await kernel.read(state_of(Table("ip", "weft"))))[SANDBOX].tables["ip", "weft"]


def generation(directory: Path) -> int:
    def ask() -> int:
        filter_ = NetlinkSocket(NETLINK_NETFILTER)
        number = nftables.decode_generation(filter_.ask(nftables.get_generation()))
        filter_.close()
        return number

    return netns.run_in(directory / SANDBOX, ask)


ONE = service([1, 2, 3, 4, 5])
MORE = service([1, 2, 3, 4, 5, 6], ONE)
MANY = service(range(1, 10), MORE)
FIRST, SECOND, THIRD = (table_of({VIRTUAL: each}) for each in (ONE, MORE, MANY))


def test_a_change_is_one_transaction_and_nobody_is_told_of_it(tmp_path: Path) -> None:
    async def body(kernel: RealKernel) -> None:
        await become(kernel, FIRST)
        await kernel.changed()
        assert await seen(kernel) == FIRST
        waiting = asyncio.create_task(kernel.changed())
        before = generation(tmp_path)
        for table in (SECOND, THIRD, FIRST):
            [operation] = await become(kernel, table)
            assert isinstance(operation, ChangeTable)
            assert await seen(kernel) == table
        assert generation(tmp_path) == before + 3
        await asyncio.sleep(0.2)
        assert not waiting.done()
        inside(tmp_path, SANDBOX, f"nft add element ip weft vip-unserved {{ {OTHER} }}")
        assert await waiting == {SANDBOX}

    with_kernel(tmp_path, body)


@pytest.mark.parametrize(
    "last", [FIRST, SECOND, THIRD], ids=["written", "elements", "a chain's rule"]
)
@pytest.mark.parametrize(
    "command",
    [
        f"nft delete element ip weft vip-slots {{ {VIRTUAL} . 0 }}",
        f"nft add element ip weft vip-unserved {{ {OTHER} }}",
        f"nft flush chain ip weft vip-{VIRTUAL}",
        "nft add rule ip weft vip-out counter",
        "nft flush map ip weft vip-services",
        "nft delete table ip weft",
        "nft flush ruleset",
    ],
)
def test_what_others_change_is_noticed_and_mended(
    tmp_path: Path, last: Table, command: str
) -> None:
    async def body(kernel: RealKernel) -> None:
        await become(kernel, FIRST)
        await become(kernel, last)
        inside(tmp_path, SANDBOX, command)
        [operation] = await become(kernel, last)
        assert isinstance(operation, ReplaceTable)
        assert await seen(kernel) == last
        listing = inside(tmp_path, SANDBOX, "nft list table ip weft")
        await become(kernel, FIRST)
        await become(kernel, last)
        assert sorted(inside(tmp_path, SANDBOX, "nft list table ip weft").split()) == sorted(
            listing.split()
        )

    with_kernel(tmp_path, body)


def test_what_others_have_is_no_reason_to_write(tmp_path: Path) -> None:
    """A firewall of the host's that changes all the time."""

    def desired(table: Table) -> KernelState:
        return KernelState({HOST: Namespace(name=HOST, tables={("ip", "weft"): table})})

    async def body(kernel: RealKernel) -> None:
        for table in (FIRST, SECOND):
            await kernel.apply(diff(await kernel.read(desired(FIRST)), desired(table)))
        before = handles()
        rules = listed_rules()
        sh("nft add table ip firewall")
        assert (await kernel.read(desired(SECOND)))[HOST] == desired(SECOND)[HOST]
        sh("nft add table ip another")
        await kernel.apply([ChangeTable(HOST, FIRST, changes_between(SECOND, FIRST))])
        assert (await kernel.read(desired(FIRST)))[HOST] == desired(FIRST)[HOST]
        assert (handles(), listed_rules()) == (
            before,
            rules,
        ), "the very rules: it was not even written again"

    with_kernel(tmp_path, body)


@pytest.mark.parametrize(
    ("last", "command", "unknown"),
    [
        (SECOND, "nft flush map ip weft vip-services", False),
        (SECOND, "nft add rule ip weft vip-out counter", False),
        (THIRD, "nft add table ip firewall", True),
    ],
    ids=["elements", "a rule", "a table of others, and our own cannot be compared"],
)
def test_a_table_that_others_may_not_have_touched_is_told_apart(
    tmp_path: Path, last: Table, command: str, unknown: bool
) -> None:
    async def body(kernel: RealKernel) -> None:
        await become(kernel, FIRST)
        await become(kernel, last)
        inside(tmp_path, SANDBOX, command)
        for _ in range(2):
            assert await seen(kernel) == Table("ip", "weft", unknown=unknown)
        await become(kernel, last)
        assert await seen(kernel) == last

    with_kernel(tmp_path, body)


def listed_rules() -> list[str]:
    return re.findall(
        r"^\t\t(\S.*# handle \d+)", sh("nft -a list table ip weft"), flags=re.MULTILINE
    )


def test_changes_of_a_table_that_is_not_what_it_was_write_it(tmp_path: Path) -> None:
    async def body(kernel: RealKernel) -> None:
        await become(kernel, FIRST)
        changes = changes_between(FIRST, SECOND)
        inside(
            tmp_path, SANDBOX, f"nft add element ip weft vip-slots {{ {VIRTUAL} . 7 : 127.0.0.77 }}"
        )
        await kernel.apply([ChangeTable(SANDBOX, SECOND, changes)])
        assert await seen(kernel) == SECOND
        assert "127.0.0.77" not in inside(tmp_path, SANDBOX, "nft list table ip weft")
        await kernel.apply([ChangeTable(SANDBOX, SECOND, changes)])
        assert await seen(kernel) == SECOND, "it is so already"

    with_kernel(tmp_path, body)
