"""Which chains of other programs may drop a packet, by the text of their tables as nft lists it.

Nothing is evaluated: a rule that drops is named, whatever it is about."""

from collections.abc import Iterator

VERDICTS = frozenset({"drop", "reject", "queue"})


def dropping(listing: str) -> Iterator[str]:
    """The chains in which a rule or the policy does not let every packet on, each with its hook:
    `in (hook input)`."""
    chain = hook = ""
    drops = False
    for line in listing.splitlines():
        words = line.replace(";", " ; ").split()
        if words[:1] == ["chain"]:
            chain, hook, drops = words[1], "", False
        elif words == ["}"]:
            if chain and drops:
                yield f"{chain} (hook {hook})" if hook else chain
            chain = ""
        elif chain:
            if words[:1] == ["type"] and "hook" in words:
                hook = words[words.index("hook") + 1]
            drops |= _drops(words)


def _drops(words: list[str]) -> bool:
    """Whether a line of a chain has such a verdict; text in quotes is none."""
    quoted = False
    for word in words:
        if not quoted and word in VERDICTS:
            return True
        quoted ^= word.count('"') % 2 == 1
    return False
