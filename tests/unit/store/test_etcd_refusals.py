"""etcd's refusals reach users: in words that need no knowledge of etcd."""

import pytest

from weft.errors import FailedPrecondition, NotFound, OperationFailed, Unavailable, WeftError
from weft.store.etcd.base import NO_MAJORITY, Compacted
from weft.store.etcd.client import refusal
from weft.store.etcd.wire import Refusal


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (14, "etcdserver: unhealthy cluster", FailedPrecondition),
        (9, "etcdserver: re-configuration failed due to not enough started members", FailedPrecondition),
        (9, "etcdserver: can only promote a learner member which is in sync with leader", FailedPrecondition),
        (9, "etcdserver: can only promote a learner member", FailedPrecondition),
        (14, "etcdserver: rpc not supported for learner", FailedPrecondition),
        (9, "etcdserver: too many learner members in cluster", FailedPrecondition),
        (9, "etcdserver: Peer URLs already exists", FailedPrecondition),
        (5, "etcdserver: member not found", NotFound),
        (8, "etcdserver: mvcc: database space exceeded", OperationFailed),
        (11, "etcdserver: mvcc: required revision is a future revision", Unavailable),
        (11, "etcdserver: mvcc: required revision has been compacted", Compacted),
        (3, "etcdserver: too many operations in txn request", OperationFailed),
        (13, "etcdserver: something of a later version", OperationFailed),
        (9, "etcdserver: something of a later version", FailedPrecondition),
    ],
)  # fmt: skip
def test_a_refusal_has_a_kind_and_words_of_our_own(
    code: int, text: str, kind: type[WeftError]
) -> None:
    said = refusal(Refusal(message=text, code=code))
    assert type(said) is kind
    assert "etcdserver" not in str(said)
    assert "rpc" not in str(said)
    assert "learner" not in str(said)


@pytest.mark.parametrize("text", ["leader changed", "request timed out", "no leader"])
def test_what_is_no_refusal_of_the_request_itself_is_an_outage(text: str) -> None:
    said = refusal(Refusal(message=f"etcdserver: {text}", code=14))
    assert (type(said), str(said)) == (Unavailable, NO_MAJORITY)
