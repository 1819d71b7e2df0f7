"""AppArmor: when it is used, when the profile is loaded, and that the profile says what Docker's
says.

The kernel's part is a directory here: no machine of the tests has AppArmor. The parser of Debian's
package compiles the real profile.
"""

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from weft.errors import OperationFailed
from weft.runtime.apparmor import AppArmor, profile_text

PARSER = shutil.which("apparmor_parser", path="/sbin:/usr/sbin")
FEATURES = "/etc/apparmor.d/abi/3.0"
"""What a kernel can mediate: Debian's package has it as a file. Without a kernel to ask the parser
would leave rules out."""


@pytest.fixture(autouse=True)
def not_in_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("container", raising=False)


def host(
    root: Path,
    *,
    on: str = "Y",
    mounted: bool = True,
    parser: str | None = "exit 0",
    loaded: str = "",
) -> Path:
    """A host's file system as far as AppArmor looks at it. `parser`: a shell script in place of
    apparmor_parser."""
    (root / "sys/module/apparmor/parameters").mkdir(parents=True)
    (root / "sys/module/apparmor/parameters/enabled").write_text(f"{on}\n")
    if mounted:
        (root / "sys/kernel/security/apparmor").mkdir(parents=True)
        (root / "sys/kernel/security/apparmor/profiles").write_text(loaded)
    if parser is not None:
        (root / "sbin").mkdir()
        program = root / "sbin/apparmor_parser"
        program.write_text(f"#!/bin/sh\n{parser}\n")
        program.chmod(0o755)
    return root


def profile(apparmor: AppArmor) -> str:
    return asyncio.run(apparmor.profile())


def test_a_host_without_it_has_no_profile_and_no_warning(tmp_path: Path) -> None:
    apparmor = AppArmor(tmp_path, tmp_path)
    assert (apparmor.in_use, apparmor.warning, profile(apparmor)) == (False, "", "")


def test_a_profile_that_is_loaded_is_used(tmp_path: Path) -> None:
    loaded = "unconfined (unconfined)\ndocker-default (enforce)\n"
    apparmor = AppArmor(tmp_path, host(tmp_path, loaded=loaded, parser="touch called; exit 1"))
    assert (apparmor.in_use, apparmor.warning, profile(apparmor)) == (
        True,
        "",
        "docker-default",
    )


@pytest.mark.parametrize(
    "loaded", ["", "docker-default-custom (enforce)\n", "other (docker-default)\n"]
)
def test_a_profile_that_is_not_loaded_is_loaded_first(tmp_path: Path, loaded: str) -> None:
    """By the parser's own words: `-Kr FILE`."""
    list_of_kernel, kept = tmp_path / "sys/kernel/security/apparmor/profiles", tmp_path / "kept"
    told = f'echo "$1" >{tmp_path}/options; cp "$2" {kept}'
    script = f'{told}; echo "docker-default (enforce)" >>{list_of_kernel}'
    apparmor = AppArmor(tmp_path, host(tmp_path, loaded=loaded, parser=script))
    assert profile(apparmor) == "docker-default"
    assert (tmp_path / "options").read_text() == "-Kr\n"
    assert 'profile "docker-default" ' in kept.read_text()
    assert not list(tmp_path.glob("*.apparmor"))
    kept.unlink()
    assert profile(apparmor) == "docker-default"
    assert not kept.exists(), "loaded though it was there"


def test_what_the_host_loses_is_loaded_again(tmp_path: Path) -> None:
    list_of_kernel = tmp_path / "sys/kernel/security/apparmor/profiles"
    apparmor = AppArmor(
        tmp_path, host(tmp_path, parser=f'echo "docker-default (enforce)" >>{list_of_kernel}')
    )
    profile(apparmor)
    list_of_kernel.write_text("")
    assert profile(apparmor) == "docker-default"
    assert list_of_kernel.read_text() == "docker-default (enforce)\n"


def test_a_profile_that_cannot_be_loaded_is_an_error_with_the_parsers_words(tmp_path: Path) -> None:
    apparmor = AppArmor(
        tmp_path, host(tmp_path, parser='echo "Syntax error at line 3" >&2; exit 1')
    )
    with pytest.raises(OperationFailed) as caught:
        profile(apparmor)
    assert (
        str(caught.value)
        == "AppArmor enabled on system but the docker-default profile could not be loaded:"
        " apparmor_parser: Syntax error at line 3"
    )
    assert apparmor.in_use
    assert not list(tmp_path.glob("*.apparmor"))


def test_a_list_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    apparmor = AppArmor(tmp_path, host(tmp_path))
    (tmp_path / "sys/kernel/security/apparmor/profiles").unlink()
    with pytest.raises(
        OperationFailed,
        match=r"cannot see whether AppArmor profile docker-default is loaded: .*No such file",
    ):
        profile(apparmor)


@pytest.mark.parametrize(
    ("mounted", "parser", "inside", "cause"),
    [
        (False, "exit 0", "", "securityfs is not mounted on"),
        (True, None, "", "apparmor_parser is not installed"),
        (True, "exit 0", "systemd-nspawn", "the daemon runs in a container"),
    ],
)
def test_a_kernel_that_has_it_on_and_a_host_that_cannot_use_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mounted: bool,
    parser: str | None,
    inside: str,
    cause: str,
) -> None:
    if inside:
        monkeypatch.setenv("container", inside)
    apparmor = AppArmor(tmp_path, host(tmp_path, mounted=mounted, parser=parser))
    assert cause in apparmor.warning
    assert (apparmor.in_use, profile(apparmor)) == (False, "")


def test_it_is_off_where_the_kernel_says_no(tmp_path: Path) -> None:
    apparmor = AppArmor(tmp_path, host(tmp_path, on="N"))
    assert (apparmor.in_use, apparmor.warning, profile(apparmor)) == (False, "", "")


# --- the profile


POLICIES = [
    [],
    ["tunables/global"],
    ["abi/3.0", "tunables/global", "abstractions/base"],
]


def compiled(text: str, *options: str) -> bytes:
    """By the parser, without a kernel: `-Q` loads nothing, `-K` keeps nothing, `-S` writes what the
    kernel would get."""
    assert PARSER is not None
    done = subprocess.run(
        [PARSER, "-QK", "-M", FEATURES, *options],
        input=text.encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("present", POLICIES, ids=len)
@pytest.mark.parametrize("daemon", ["unconfined", "weft daemon", "/usr/bin/weft"])
def test_the_parser_takes_the_profile(present: list[str], daemon: str) -> None:
    assert b"docker-default" in compiled(profile_text(daemon, present), "-S")


RULES = {
    "network,", "deny network alg,", "capability,", "file,", "umount,", "deny mount,",
    "signal (receive) peer=unconfined,", "signal (receive) peer=runc,",
    "signal (receive) peer=crun,", 'signal (receive) peer="DAEMON",',
    'signal (send,receive) peer="docker-default",',
    'ptrace (trace,tracedby,read,readby) peer="docker-default",', "deny @{PROC}/* w,",
    "deny @{PROC}/sys/[^k]** w,", "deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,",
    "deny @{PROC}/{[^1-9/],[^1-9/][^0-9/],[^1-9s/][^0-9y/][^0-9s/],[^1-9/][^0-9/][^0-9/][^0-9/]*}/** w,",
    "deny @{PROC}/sysrq-trigger rwklx,", "deny @{PROC}/kcore rwklx,", "deny /sys/[^f]*/** wklx,",
    "deny /sys/f[^s]*/** wklx,", "deny /sys/fs/[^c]*/** wklx,", "deny /sys/fs/c[^g]*/** wklx,",
    "deny /sys/fs/cg[^r]*/** wklx,", "deny /sys/firmware/** rwklx,",
    "deny /sys/devices/virtual/powercap/** rwklx,", "deny /sys/kernel/security/** rwklx,",
}  # fmt: skip
"""What Docker 29's docker-default allows and denies."""


def test_its_rules_are_the_originals() -> None:
    lines = [line.strip() for line in profile_text("DAEMON", []).splitlines()]
    inside = lines[
        next(i for i, line in enumerate(lines) if line.startswith("profile ")) + 1 : lines.index(
            "}"
        )
    ]
    assert {line for line in inside if line and not line.startswith("#")} == RULES


ORIGINAL = (
    "@{PROC}=/proc/\nprofile docker-default flags=(attach_disconnected,mediate_deleted) {\n%s\n}\n"
)


def test_the_kernel_would_get_the_originals_policy() -> None:
    """Compiled, so that no spelling of a rule counts."""
    assert compiled(profile_text("DAEMON", []), "-S") == compiled(
        ORIGINAL % "\n".join(sorted(RULES)), "-S"
    )


@pytest.mark.parametrize("rule", sorted(RULES))
def test_no_rule_is_idle(rule: str) -> None:
    """Without it the kernel would get another policy."""
    text = profile_text("DAEMON", [])
    assert compiled(text, "-S") != compiled(text.replace(f"  {rule}\n", ""), "-S")


def test_the_daemons_own_profile_may_signal_containers() -> None:
    assert 'signal (receive) peer="weft daemon",' in profile_text("weft daemon", [])


def test_the_hosts_profile_directory_decides_what_is_included(tmp_path: Path) -> None:
    root = host(tmp_path, parser=f'cp "$2" {tmp_path}/kept')
    (root / "etc/apparmor.d/tunables").mkdir(parents=True)
    (root / "etc/apparmor.d/tunables/global").touch()
    profile(AppArmor(tmp_path, root))
    text = (tmp_path / "kept").read_text()
    assert text.startswith("#include <tunables/global>\n")
    assert "abi <" not in text
    assert "abstractions/base" not in text
