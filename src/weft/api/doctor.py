"""What is wrong: on this node, and on a manager with the whole swarm. The Docker Engine API has no
routes for that; `weft doctor` uses these."""

from aiohttp import web

from weft.api.call import Call, answer
from weft.model.finding import Report


async def examine(call: Call) -> web.Response:
    return answer(_json(await call.node.examine(repair=False)))


async def repair(call: Call) -> web.Response:
    return answer(_json(await call.node.examine(repair=True)))


def _json(report: Report) -> dict[str, object]:
    return {
        "Findings": [
            {
                "Severity": each.severity,
                "Node": each.node,
                "What": each.what,
                "Cause": each.cause,
                "Remedy": each.remedy,
            }
            for each in report.findings
        ],
        "Mended": [{"Node": node, "What": what} for node, what in report.mended],
    }
