"""All deadlines between nodes keep their proportion to etcd's election timeout."""

from weft.session.deadlines import USUAL, Deadlines


def test_they_grow_with_the_election_timeout() -> None:
    slow = Deadlines(5.0)
    assert (slow.handshake, slow.election) == (5 * USUAL.handshake, 5 * USUAL.election)
    assert slow.request.total == 5 * USUAL.request.total  # type: ignore[operator]
    assert slow.session.sock_connect == 5 * USUAL.session.sock_connect  # type: ignore[operator]
    assert slow.session.total is None, "a session has no end"
