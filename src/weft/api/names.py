"""Names for services that were created without one: an adjective and a noun from the craft of
weaving."""

ADJECTIVES = (
    "amber", "bold", "brisk", "calm", "clever", "crisp", "deft", "eager", "fair", "fine", "gentle", "glad", "happy", "keen",
    "kind", "lively", "lucid", "mellow", "neat", "nimble", "patient", "proud", "quick", "quiet", "sharp", "silken", "steady",
    "sturdy", "subtle", "swift", "vivid", "warm",
)  # fmt: skip
NOUNS = (
    "bobbin", "braid", "brocade", "cloth", "cord", "damask", "distaff", "fabric", "fibre", "flax", "fleece", "hemp", "knot",
    "lace", "linen", "loom", "mesh", "muslin", "needle", "pattern", "ribbon", "satin", "selvage", "shuttle", "skein", "spindle",
    "spool", "thread", "twill", "velvet", "warp", "yarn",
)  # fmt: skip


def random_name(entropy: bytes) -> str:
    """Makes a name such as `steady_loom42` from at least four random bytes."""
    if len(entropy) < 4:
        raise ValueError(f"a name needs 4 random bytes, got {len(entropy)}")
    number = int.from_bytes(entropy, "big")
    number, adjective = divmod(number, len(ADJECTIVES))
    number, noun = divmod(number, len(NOUNS))
    return f"{ADJECTIVES[adjective]}_{NOUNS[noun]}{number % 100}"
