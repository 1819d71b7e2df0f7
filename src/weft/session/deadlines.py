"""How long a node waits for a manager's answer. On slow hosts, or between distant ones, all of it must
be longer: it keeps its proportion to the election timeout of etcd, as the store's deadlines do
(`store.etcd.base.Pace`)."""

import aiohttp
import msgspec


class Deadlines(msgspec.Struct, frozen=True):
    """In seconds, where etcd's election timeout is one second."""

    factor: float = 1.0
    """The election timeout, in seconds."""

    @property
    def handshake(self) -> float:
        """Until the next manager is asked for a session: a manager that is stopped accepts
        connections and says nothing."""
        return 10.0 * self.factor

    @property
    def election(self) -> float:
        """For managers without a leader to elect one."""
        return 3.0 * self.factor

    @property
    def request(self) -> aiohttp.ClientTimeout:
        """Of one request and its answer."""
        return aiohttp.ClientTimeout(total=20 * self.factor, connect=5 * self.factor)

    @property
    def session(self) -> aiohttp.ClientTimeout:
        """Of a connection that stays. It is made, TLS included, within `sock_connect`: a lost SYN is
        sent again after a second, and a host that is off does not answer the second one either."""
        connect, made = 5 * self.factor, 1.5 * self.factor
        return aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=made)


USUAL = Deadlines()
