"""Filters in the language of tcpdump (pcap-filter(7)), compiled by libpcap."""

import ctypes
import ctypes.util

from weft.errors import InvalidArgument, OperationFailed
from weft.model.capture import Instruction

_ETHERNET = 1
_UNKNOWN_NETMASK = 0xFFFFFFFF
_RETURN = 0x06


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.POINTER(_Instruction)))


def compiled(expression: str, snaplen: int) -> tuple[Instruction, ...]:
    """A program that takes the first `snaplen` bytes of each Ethernet frame that the expression
    describes; of every frame if it is empty. Raises `InvalidArgument` if the expression is not
    valid, `OperationFailed` if there is no libpcap."""
    if not expression.strip():
        return ((_RETURN, 0, 0, snaplen),)
    library = _library()
    handle = library.pcap_open_dead(_ETHERNET, snaplen)
    program = _Program()
    try:
        text = expression.encode()
        if library.pcap_compile(handle, ctypes.byref(program), text, 1, _UNKNOWN_NETMASK) != 0:
            cause = library.pcap_geterr(handle).decode(errors="replace")
            raise InvalidArgument(f"cannot use filter {expression!r}: {cause}")
        found = (program.instructions[i] for i in range(program.length))
        return tuple((each.code, each.jt, each.jf, each.k) for each in found)
    finally:
        library.pcap_freecode(ctypes.byref(program))
        library.pcap_close(handle)


def _library() -> ctypes.CDLL:
    name = ctypes.util.find_library("pcap") or "libpcap.so.0.8"
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise OperationFailed(
            "cannot use a filter: libpcap is missing; install libpcap0.8"
        ) from error
    library.pcap_open_dead.restype = ctypes.c_void_p
    library.pcap_geterr.restype = ctypes.c_char_p
    library.pcap_geterr.argtypes = library.pcap_close.argtypes = (ctypes.c_void_p,)
    library.pcap_compile.argtypes = (
        ctypes.c_void_p,
        ctypes.POINTER(_Program),
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_uint,
    )
    return library
