"""Netlink messages, by which a program talks to the kernel's network stack. Written by hand,
because speed matters here.

`attributes` and `message` are the common format (RFC 3549). `link`, `address`, `neighbour`, `route`
and `rule` translate between values and rtnetlink messages, as pure functions. `socket` is the only
file here with effects.
"""
