"""DNS messages against dnslib, which others wrote, and against noise."""

import contextlib
from ipaddress import IPv4Address, IPv6Address

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.dns import codec
from weft.dns.codec import MalformedMessage, Message, Question, Record, decode, encode
from weft.errors import InvalidArgument

labels = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=20)
names = st.lists(labels, max_size=5).map(".".join)


def records(name: st.SearchStrategy[str]) -> st.SearchStrategy[Record]:
    ttl = st.integers(0, 2**31 - 1)
    return st.one_of(
        st.builds(Record, name, st.just(codec.A), ttl, st.ip_addresses(v=4)),
        st.builds(Record, name, st.just(codec.AAAA), ttl, st.ip_addresses(v=6)),
        st.builds(Record, name, st.just(codec.PTR), ttl, name),
        st.builds(Record, name, st.just(65280), ttl, st.binary(min_size=1, max_size=40)),
    )


messages = st.builds(
    Message,
    id=st.integers(0, 65535), response=st.booleans(), opcode=st.integers(0, 15), authoritative=st.booleans(),
    truncated=st.booleans(), recursion_desired=st.booleans(), recursion_available=st.booleans(), rcode=st.integers(0, 15),
    questions=st.lists(st.builds(Question, names, st.integers(0, 65535)), max_size=2).map(tuple),
    answers=st.lists(records(names), max_size=8).map(tuple),
    udp_size=st.none() | st.integers(512, 65535),
)  # fmt: skip


@given(messages)
def test_a_message_survives_the_way_there_and_back(message: Message) -> None:
    assert decode(encode(message)) == message


@given(messages, st.integers(100, 600))
def test_an_answer_that_does_not_fit_is_cut_at_a_record_and_says_so(
    message: Message, limit: int
) -> None:
    bare = len(encode(Message(id=1, questions=message.questions, udp_size=message.udp_size)))
    short = encode(message, max(limit, bare))
    assert len(short) <= max(limit, bare)
    read = decode(short)
    assert read.answers == message.answers[: len(read.answers)]
    assert read.truncated == (message.truncated or len(read.answers) < len(message.answers))


@given(messages)
def test_dnslib_reads_what_we_write(message: Message) -> None:
    parsed = dnslib.DNSRecord.parse(encode(message))
    assert parsed.header.id == message.id
    assert [(str(q.qname).rstrip("."), q.qtype) for q in parsed.questions] == [
        (q.name, q.type) for q in message.questions
    ]
    for theirs, ours in zip(parsed.rr, message.answers, strict=True):
        assert str(theirs.rname).rstrip(".") == ours.name
        if isinstance(ours.data, IPv4Address | IPv6Address):
            assert str(ours.data) == str(ours.data.__class__(str(theirs.rdata)))
        if ours.type == codec.PTR:
            assert str(theirs.rdata.label).rstrip(".") == ours.data


def test_we_read_what_dnslib_writes_compression_included() -> None:
    record = dnslib.DNSRecord.question("web.demo-net", "A").reply()
    for i in range(3):
        record.add_answer(
            dnslib.RR("web.demo-net", dnslib.QTYPE.A, rdata=dnslib.A(f"10.0.1.{i}"), ttl=600)
        )
    record.add_answer(
        dnslib.RR("demo-net", dnslib.QTYPE.PTR, rdata=dnslib.PTR("web.demo-net"), ttl=1)
    )
    record.add_ar(dnslib.EDNS0(udp_len=1232))
    message = decode(bytes(record.pack()))
    assert [str(r.data) for r in message.answers[:3]] == ["10.0.1.0", "10.0.1.1", "10.0.1.2"]
    assert {r.name for r in message.answers[:3]} == {"web.demo-net"}
    assert message.answers[3].data == "web.demo-net"
    assert message.udp_size == 1232


@given(st.binary(max_size=300))
def test_noise_is_refused_or_read_but_never_raises_anything_else(data: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        decode(data)


@given(messages, st.data())
def test_a_damaged_message_is_refused_or_read(message: Message, data: st.DataObject) -> None:
    raw = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedMessage):
        decode(bytes(raw[: data.draw(st.integers(0, len(raw)))]))


def test_pointers_that_lead_nowhere_or_round_in_circles_are_refused() -> None:
    head = codec.HEADER.pack(1, 0, 1, 0, 0, 0)
    for name in (b"\xc0\x0c", b"\xc0\x20", b"\x01a\xc0\x0c", b"\xc0", b"\x41", b"\x80"):
        with pytest.raises(MalformedMessage):
            decode(head + name + b"\0\1\0\1")


def test_a_chain_of_pointers_longer_than_a_name_may_be_is_refused() -> None:
    body = bytearray(b"\x3f" + b"a" * 63 + b"\0")
    at = codec.HEADER.size
    for _ in range(5):
        start = codec.HEADER.size + len(body)
        body += b"\x3f" + b"a" * 63 + (0xC000 | at).to_bytes(2, "big")
        at = start
    with pytest.raises(MalformedMessage, match="too many"):
        codec.read_name(b"\0" * codec.HEADER.size + bytes(body), at)


def test_dots_inside_a_label_stay_inside_it() -> None:
    raw = b"\x03a.b\x01\\\x00"
    name, _ = codec.read_name(raw, 0)
    out = bytearray()
    codec.write_name(out, name, {})
    assert bytes(out) == raw


@pytest.mark.parametrize("name", ["a" * 64, ".".join(["a" * 60] * 5), "a..b", "\u20ac"])
def test_a_name_that_is_none_is_not_written(name: str) -> None:
    with pytest.raises(InvalidArgument):
        encode(Message(id=1, questions=(Question(name, 1),)))
