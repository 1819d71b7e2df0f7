"""A service's mode, and what only jobs have: the JSON of their status and of their tasks' iteration.

`TotalCompletions` is the model's `replicas`: both say how many slots there are."""

from weft.api.schema.common import Json, omit_empty, rfc3339
from weft.api.schema.service_wire import ModeWire, ReplicatedJobWire
from weft.errors import InvalidArgument
from weft.model.service import Job, JobStatus, ServiceSpec


def mode_from(wire: ModeWire) -> tuple[int | None, Job | None]:
    """Replicas, or completions (None: one on each node), and what makes the service a job. Raises
    `InvalidArgument`."""
    modes = (wire.replicated, wire.every, wire.replicated_job, wire.global_job)
    if sum(mode is not None for mode in modes) > 1:
        raise InvalidArgument("must specify only one service mode")
    if wire.replicated_job is not None:
        return _replicated_job(wire.replicated_job)
    if wire.global_job is not None:
        return None, Job()
    if wire.every is not None:
        return None, None
    asked = None if wire.replicated is None else wire.replicated.replicas
    return 1 if asked is None else asked, None


def _replicated_job(wire: ReplicatedJobWire) -> tuple[int, Job]:
    """Defaults as in Docker: one task at a time, and as many completions as tasks at a time."""
    most = 1 if wire.max_concurrent is None else wire.max_concurrent
    return most if wire.total_completions is None else wire.total_completions, Job(most)


def mode_json(spec: ServiceSpec) -> Json:
    match spec.mode:
        case "replicated":
            return {"Replicated": {"Replicas": spec.replicas}}
        case "global":
            return {"Global": {}}
        case "global-job":
            return {"GlobalJob": {}}
    most = spec.job.max_concurrent if spec.job is not None else None
    return {"ReplicatedJob": {"MaxConcurrent": most, "TotalCompletions": spec.replicas}}


def job_status_json(status: JobStatus) -> Json:
    return {
        "JobIteration": iteration_json(status.iteration),
        "LastExecution": rfc3339(status.last_execution),
    }


def iteration_json(iteration: int) -> Json:
    """Docker leaves the number 0 out."""
    return omit_empty({"Index": iteration})
