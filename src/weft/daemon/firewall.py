"""Whether a firewall of the host would drop the swarm's packets, judged by its rules as nft prints
them (`nft --json list ruleset`, libnftables-json(5)).

A base chain with the policy drop lets through only what a rule accepts, and so does one that ends
with a rule that drops or rejects everything, as firewalld's do. Rules can say so in many ways, so
this judges by names: a chain of the table that names the port, protocol or link and accepts. A rule
that accepts it only from some addresses counts: the administrator knows which.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from weft.network.ownership import owns_table

_HOOKS = ("input", "forward")
_FAMILIES = ("ip", "inet")


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """Something that must be let through, and how to say so."""

    name: str
    hook: str
    names: tuple[str | int, ...]
    """The port, protocol or links, any of which a rule would name."""
    nft: tuple[str, ...]
    """The matching part of each rule to add."""
    ufw: tuple[str, ...]
    firewalld: tuple[str, ...]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A base chain that drops what no rule accepts, by its policy or by its last rule."""

    family: str
    table: str
    chain: str
    hook: str
    accepted: frozenset[str | int]
    """Ports, protocols and links that accepting rules of its table name."""


def needs(data_path_port: int) -> Iterator[Need]:
    for port, protocol, name in (
        (2377, "tcp", "2377/tcp (sessions)"),
        (2380, "tcp", "2380/tcp (etcd, on managers)"),
        (data_path_port, "udp", f"{data_path_port}/udp (VXLAN)"),
    ):
        yield Need(
            name=name,
            hook="input",
            names=(port,),
            nft=(f"{protocol} dport {port}",),
            ufw=(f"ufw allow {port}/{protocol}",),
            firewalld=(f"firewall-cmd --permanent --add-port={port}/{protocol}",),
        )
    yield Need(
        name="protocol 50 (ESP, encrypted overlays)",
        hook="input",
        names=(50, "esp"),
        nft=("ip protocol esp",),
        ufw=("ufw allow proto esp from any",),
        firewalld=("firewall-cmd --permanent --add-protocol=esp",),
    )
    yield Need(
        name="the links ing0 and docker_gwbridge (routing mesh, containers)",
        hook="forward",
        names=("ing0", "docker_gwbridge"),
        nft=('iifname { "ing0", "docker_gwbridge" }', 'oifname { "ing0", "docker_gwbridge" }'),
        ufw=tuple(
            f"ufw route allow {way} on {link}"
            for link in ("ing0", "docker_gwbridge")
            for way in ("in", "out")
        ),
        firewalld=(
            "firewall-cmd --permanent --zone=trusted --add-interface=ing0",
            "firewall-cmd --permanent --zone=trusted --add-interface=docker_gwbridge",
        ),
    )


def closed(
    policies: Iterable[Policy], data_path_port: int
) -> Iterator[tuple[Policy, tuple[Need, ...]]]:
    """Each policy with what it drops of ours."""
    for policy in policies:
        missing = tuple(
            need
            for need in needs(data_path_port)
            if need.hook == policy.hook and not policy.accepted & set(need.names)
        )
        if missing:
            yield policy, missing


class Blocking(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that drops something of ours from everybody."""

    family: str
    table: str
    chain: str
    handle: int
    need: Need


def blocking(ruleset: Sequence[Any], data_path_port: int) -> list[Blocking]:
    """The rules among the elements of `nft --json list ruleset` that name one of our ports or
    protocols and drop it. A rule that also names addresses is the administrator's affair."""
    found = []
    for rule in (element["rule"] for element in ruleset if "rule" in element):
        if rule["family"] not in _FAMILIES or owns_table(rule["table"]):
            continue
        for need in needs(data_path_port):
            if need.hook == "input" and _drops(rule, need):
                found.append(
                    Blocking(
                        family=rule["family"],
                        table=rule["table"],
                        chain=rule["chain"],
                        handle=rule["handle"],
                        need=need,
                    )
                )
    return found


def _drops(rule: Any, need: Need) -> bool:
    statements = rule.get("expr", [])
    if not any("drop" in each or "reject" in each for each in statements):
        return False
    protocol = need.nft[0].split()[0]
    matches = [each["match"] for each in statements if "match" in each]
    names: set[str | int] = set()
    for match in matches:
        left = match["left"]
        payload = left.get("payload", {}) if isinstance(left, dict) else {}
        field = (payload.get("protocol"), payload.get("field"))
        if match.get("op") not in ("==", "in") or field[1] in ("saddr", "daddr", "sport"):
            return False
        if field in ((protocol, "dport"), ("ip", "protocol")) or "meta" in left:
            names |= set(_names(match["right"]))
    return bool(names & set(need.names))


def policies(ruleset: Sequence[Any]) -> list[Policy]:
    """The policies among the elements of `nft --json list ruleset`, but for our own tables."""
    rules = [element["rule"] for element in ruleset if "rule" in element]
    found = []
    for element in ruleset:
        chain = element.get("chain")
        if chain is None or chain.get("hook") not in _HOOKS or not _is_closed(chain, rules):
            continue
        if chain["family"] not in _FAMILIES or owns_table(chain["table"]):
            continue
        place = (chain["family"], chain["table"])
        accepted = {
            name
            for rule in rules
            if (rule["family"], rule["table"]) == place
            for name in _accepted(rule)
        }
        found.append(
            Policy(
                family=chain["family"],
                table=chain["table"],
                chain=chain["name"],
                hook=chain["hook"],
                accepted=frozenset(accepted),
            )
        )
    return found


def _is_closed(chain: Any, rules: Sequence[Any]) -> bool:
    """Whether a base chain drops what none of its rules accepts."""
    if chain.get("policy") == "drop":
        return True
    place = (chain["family"], chain["table"], chain["name"])
    own = [rule for rule in rules if (rule["family"], rule["table"], rule["chain"]) == place]
    return bool(own) and _drops_everything(own[-1].get("expr", []))


def _drops_everything(statements: Sequence[Any]) -> bool:
    kinds = {kind for statement in statements for kind in statement}
    return bool(kinds & {"drop", "reject"}) and kinds <= {"drop", "reject", "counter", "log"}


def _accepted(rule: Any) -> Iterator[str | int]:
    """Ports, protocols and links that an accepting rule names. ufw and firewalld accept in chains
    of their own."""
    statements = rule.get("expr", [])
    if not any("accept" in statement for statement in statements):
        return
    for statement in statements:
        if "match" in statement and statement["match"].get("op") in ("==", "in"):
            yield from _names(statement["match"]["right"])


def _names(value: Any) -> Iterator[str | int]:
    """The values that an expression has: one, a set, a range of ports."""
    if isinstance(value, str | int):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _names(part)
    elif isinstance(value, dict):
        if "range" in value and all(isinstance(end, int) for end in value["range"]):
            yield from range(value["range"][0], value["range"][1] + 1)
        for part in (value.get("set"), value.get("elem"), value.get("val")):
            if part is not None:
                yield from _names(part)
