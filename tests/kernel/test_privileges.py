"""What a user may change about the confinement of a container, looked at from inside: with the real
conmon and runc."""

import json

from tests.kernel import runtime_host
from tests.kernel.runtime_host import Host, finished, with_runtime
from weft.model.privileges import Privileges
from weft.runtime.conmon import ConmonRuntime
from weft.runtime.spec import INIT_TARGET

pytestmark = runtime_host.NEEDED
host = runtime_host.host
image_archive = runtime_host.image_archive

STATUS = (
    "sh",
    "-c",
    "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status; cat /proc/self/oom_score_adj",
)
NO_MKDIR = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
}


@with_runtime
async def test_what_is_asked_for_is_in_force(runtime: ConmonRuntime, host: Host) -> None:
    code, said = await finished(runtime, *STATUS)
    assert (code, said.split()) == (0, [b"NoNewPrivs:", b"0", b"Seccomp:", b"2", b"0"])
    free = Privileges(seccomp="unconfined", apparmor="disabled", no_new_privileges=True)
    code, said = await finished(runtime, *STATUS, privileges=free, oom_score_adj=500)
    assert (code, said.split()) == (0, [b"NoNewPrivs:", b"1", b"Seccomp:", b"0", b"500"])
    own = Privileges(seccomp="custom", seccomp_profile=json.dumps(NO_MKDIR).encode())
    code, said = await finished(runtime, "mkdir", "/new", privileges=own)
    assert code == 1
    assert b"not supported" in said


@with_runtime
async def test_an_init_runs_the_program_and_passes_its_end_on(
    runtime: ConmonRuntime, host: Host
) -> None:
    code, said = await finished(runtime, "sh", "-c", "cat /proc/1/cmdline; echo; exit 7", init=True)
    assert code == 7
    assert said.startswith(f"{INIT_TARGET}\0--\0sh\0".encode())
