"""What the API was asked, by route: the path with `{id}` in place of names, so that there are as
many as in the table of routes."""

from time import perf_counter

from aiohttp import web

from weft.system.tally import Counts

NO_ROUTE = ("none", "none")
"""Method and route of a request that matches none."""


class RequestTally:
    def __init__(self) -> None:
        self.answers = Counts()
        """By method, route and status; status 0 for requests that ended without an answer."""
        self.seconds: dict[tuple[str, str], float] = {}
        """The sum of the times that answers took, by method and route."""

    def add(self, request: web.Request, status: int, begun: float) -> None:
        """`begun`: by `perf_counter`."""
        resource = request.match_info.route.resource
        place = NO_ROUTE
        if resource is not None:
            place = request.method, resource.canonical.removeprefix("/v{version}")
        self.answers.add(*place, str(status))
        self.seconds[place] = self.seconds.get(place, 0.0) + perf_counter() - begun
