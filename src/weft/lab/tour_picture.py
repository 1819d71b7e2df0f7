"""The picture beside each step of the tour: two hosts, what is in them, and where we are."""

from weft.lab.tour_steps import Place

_PICTURE = """\
                @manager@                  node2
               ┌───────────────────┐      ┌───────────────────┐
               │    @container@    │      │    @container@    │
               │        │ veth     │      │        │ veth     │
   @client@    │     @overlay@     │      │     @overlay@     │
       │       │        │ vxlan0   │      │        │ vxlan0   │
       │       │     @engine@      │      │     @engine@      │
       │       │       @host@      │      │       @host@      │
       │       └────────┬──────────┘      └────────┬──────────┘
       └────────────────┴─────────@wire@───────────┘"""
_LABELS: dict[str, str] = {"manager": "node1", "engine": "ESP", "wire": "wire"}
BOLD, PLAIN = "\x1b[1;7m", "\x1b[0m"


def picture(place: Place, host: str, colour: bool) -> str:
    """`host`: on which host; all but node1 are the one on the right. Without colour the place is
    between angle brackets."""
    right = host not in ("node1", "client")
    drawn = _PICTURE
    for name in ("manager", "container", "client", "overlay", "engine", "host", "wire"):
        before, *rest = drawn.split(f"@{name}@")
        drawn = before
        for number, after in enumerate(rest):
            is_here = name == place and number == (1 if right and len(rest) > 1 else 0)
            drawn += _label(name, is_here, colour) + after
    return "\n".join(line.rstrip() for line in drawn.splitlines())


def _label(name: str, is_here: bool, colour: bool) -> str:
    """As wide as its place in the picture."""
    width = len(name) + 2
    text = _LABELS.get(name, name)
    if not is_here:
        return text.center(width)
    if not colour:
        return f">{text}<".center(width)
    return f"{BOLD}{text}{PLAIN}".center(width + len(BOLD) + len(PLAIN))
