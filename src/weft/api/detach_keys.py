"""The keys with which a person at a terminal leaves a container or command that goes on. The docker
command looks for them itself; for other clients the daemon does.

They are looked for as in Docker (github.com/moby/term, `ascii.go` and `proxy.go`): keys that may
begin the sequence are held back until the next key tells, and are the program's if it is another
one. That key itself begins nothing."""

import asyncio

from weft.errors import InvalidArgument, clip

USUAL = bytes((16, 17))
"""ctrl-p, ctrl-q."""
_CONTROL = "@abcdefghijklmnopqrstuvwxyz[\\]^_"
_CODES = {f"ctrl-{key}": code for code, key in enumerate(_CONTROL)} | {"DEL": 127}


def keys_from(text: str, what: str) -> bytes:
    """Of `ctrl-p,ctrl-q` or `ctrl-x,x`; the usual ones for an empty text. `what`: the kind of keys,
    for the error. Raises `InvalidArgument`."""
    if not text:
        return USUAL
    codes = bytearray()
    for key in text.split(","):
        written = key.encode()
        if len(written) == 1:
            codes += written
        elif key in _CODES:
            codes.append(_CODES[key])
        else:
            raise InvalidArgument(f"Invalid {what} keys ({clip(text)}) provided")
    return bytes(codes)


class DetachKeys:
    """Looks at the input of one client."""

    def __init__(self, keys: bytes) -> None:
        """`keys`: empty to look for none."""
        self._keys = keys
        self._found = 0
        """Keys of the sequence that were the last input."""
        self.pressed = asyncio.Event()

    def left_of(self, data: bytes) -> bytes:
        """What of the input, and of what was held back, is the program's. Nothing that comes after
        the whole sequence is."""
        if not self._keys:
            return data
        passed = bytearray()
        for code in data if not self.pressed.is_set() else b"":
            if code == self._keys[self._found]:
                self._found += 1
                if self._found == len(self._keys):
                    self.pressed.set()
                    break
            else:
                passed += self._keys[: self._found]
                passed.append(code)
                self._found = 0
        return bytes(passed)
