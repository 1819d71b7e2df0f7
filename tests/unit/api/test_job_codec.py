"""Jobs: JSON -> model -> JSON, and what the API refuses about them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.api.schema.common import encode
from weft.api.schema.decoding import decode
from weft.api.schema.job import job_status_json
from weft.api.schema.service import spec_from, spec_json
from weft.api.schema.service_wire import ServiceWire
from weft.errors import InvalidArgument
from weft.model.service import Job, JobStatus, ServiceSpec

IMAGE = {"ContainerSpec": {"Image": "busybox"}}


def read(mode: Any, **rest: Any) -> ServiceSpec:
    body = {"Name": "job", "TaskTemplate": IMAGE, "Mode": mode, **rest}
    return spec_from(decode(encode(body), ServiceWire), lambda reference: None)


@pytest.mark.parametrize(
    ("wire", "completions", "most"),
    [
        ({}, 1, 1),
        ({"MaxConcurrent": 3}, 3, 3),
        ({"TotalCompletions": 5}, 5, 1),
        ({"TotalCompletions": 5, "MaxConcurrent": 0}, 5, 0),
    ],
)
def test_defaults_are_dockers(wire: Any, completions: int, most: int) -> None:
    spec = read({"ReplicatedJob": wire})
    assert (spec.mode, spec.replicas, spec.job) == ("replicated-job", completions, Job(most))


@given(st.integers(0, 1000), st.integers(0, 1000), st.booleans())
def test_a_job_survives_its_json(completions: int, most: int, is_global: bool) -> None:
    wire = {"TotalCompletions": completions, "MaxConcurrent": most}
    spec = read({"GlobalJob": {}} if is_global else {"ReplicatedJob": wire})
    shown = spec_json(spec)
    assert not shown.keys() & {"UpdateConfig", "RollbackConfig"}
    assert read(shown["Mode"]) == spec
    assert spec.mode == ("global-job" if is_global else "replicated-job")


@pytest.mark.parametrize("mode", [{"ReplicatedJob": {}}, {"GlobalJob": {}}])
@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("UpdateConfig", "Jobs may not have an update config"),
        ("RollbackConfig", "Jobs may not have a rollback config"),
    ],
)
def test_a_job_has_no_configs_of_updates(mode: Any, config: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        read(mode, **{config: {"Parallelism": 1}})


@pytest.mark.parametrize("field", ["MaxConcurrent", "TotalCompletions"])
@pytest.mark.parametrize("value", [-1, 2**63, "3"])
def test_a_number_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=field):
        read({"ReplicatedJob": {field: value}})


def test_a_service_has_one_mode() -> None:
    with pytest.raises(InvalidArgument, match="must specify only one service mode"):
        read({"ReplicatedJob": {}, "GlobalJob": {}})


def test_the_status_is_printed_as_docker_prints_it() -> None:
    assert job_status_json(JobStatus(0, 1_500_000_000)) == {
        "JobIteration": {},
        "LastExecution": "1970-01-01T00:00:01.5Z",
    }
    assert job_status_json(JobStatus(2))["JobIteration"] == {"Index": 2}
