"""Netlink: the messages in which a program talks to the kernel's network stack, written by hand
because speed matters here.

`attributes` and `message` are the common form (RFC 3549), `link`, `address`, `neighbour`, `route`
and `rule` the rtnetlink messages as pure functions between values and bytes, `socket` the only file
here that does anything.
"""
