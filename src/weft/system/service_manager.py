"""What passes between the daemon and the service manager that started it (systemd): sockets that it
holds open for the daemon, and the word that the daemon is ready.

Both go by variables of the environment (sd_listen_fds(3), sd_notify(3)), which are taken out of it:
what the daemon starts, a container's monitor for one, must not believe that they are its own.
Without a service manager there are no sockets, and `notify` does nothing.
"""

import logging
import os
import socket
from collections.abc import MutableMapping

from weft.errors import cause_of
from weft.model.numbers import decimal

log = logging.getLogger(__name__)

_FIRST = 3
"""The first descriptor that is passed; the others follow without a gap."""
_MOST = 64
_ABSTRACT = "@"
"""In the variable for the zero byte of an address in the abstract namespace, unix(7)."""

READY = "READY=1"
STOPPING = "STOPPING=1"


def status(text: str) -> str:
    """A state: what `systemctl status` is to show."""
    return f"STATUS={text}"


class ServiceManager:
    """Takes the variables out of the environment when it is made."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        variables = os.environ if environment is None else environment
        self._address = variables.pop("NOTIFY_SOCKET", "")
        owner = decimal(variables.pop("LISTEN_PID", ""))
        count = decimal(variables.pop("LISTEN_FDS", "")) or 0
        variables.pop("LISTEN_FDNAMES", None)
        mine = min(count, _MOST) if owner == os.getpid() else 0
        self._given = [_listener(_FIRST + number) for number in range(mine)]

    def listeners(self) -> list[socket.socket]:
        """The sockets that it holds open, listening. Clients wait there from before the daemon's
        start, and while it is restarted."""
        return list(self._given)

    def notify(self, state: str) -> None:
        """Tells one of the states above. What it does not hear is no reason to fail: it is
        logged."""
        if not self._address:
            return
        address = self._address
        if address.startswith(_ABSTRACT):
            address = "\0" + address[1:]
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        try:
            with socket.socket(socket.AF_UNIX, kind) as channel:
                channel.sendto(state.encode(), address)
        except OSError as error:
            log.warning("service_manager.not_told state=%s cause=%s", state, cause_of(error))

    def extend(self, seconds: float) -> None:
        """The present start or stop takes that long at most, from now on: do not give it up before,
        whatever its time limit is."""
        self.notify(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")


def _listener(number: int) -> socket.socket:
    listener = socket.socket(fileno=number)
    listener.set_inheritable(False)
    listener.setblocking(False)
    return listener
