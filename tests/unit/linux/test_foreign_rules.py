"""Chains of others that may drop packets, found in nft's listing."""

from weft.linux.foreign_rules import dropping

LISTING = """table inet strict {
\tset allowed {
\t\ttype inet_service
\t}

\tchain in {
\t\ttype filter hook input priority filter; policy accept;
\t\tudp dport 4789 drop
\t}

\tchain closed {
\t\ttype filter hook forward priority filter; policy drop;
\t\tiifname "eth0" accept
\t}

\tchain helper {
\t\ttcp dport 22 reject with icmp type port-unreachable
\t}

\tchain open {
\t\ttype filter hook output priority filter; policy accept;
\t\tct state established accept
\t\tcomment "nothing to drop here" accept
\t\toifname "drop" accept
\t}
}
"""


def test_chains_that_drop_are_named_with_their_hooks() -> None:
    assert list(dropping(LISTING)) == ["in (hook input)", "closed (hook forward)", "helper"]
    assert list(dropping("")) == []
