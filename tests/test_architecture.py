"""The layout's rules as tests. To change a rule, change it here first, in its own commit, with the
reason beside it."""

import ast
import re
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.source_modules import (
    ALL,
    Module,
    calls,
    changes_in,
    each_module,
    functions,
    imported,
    is_fake,
    length,
    nesting,
    ours,
    parameters,
)

VALUES = {"errors", "model"}
MAY_IMPORT = {
    # 1 values
    "errors": set(),
    "model": {"errors"},
    # 2 logic
    "control": VALUES | {"pki"},
    "network": VALUES,
    "dns": VALUES,
    "esp": VALUES,
    "pki": VALUES,
    # 3 ground
    "system": VALUES,
    # 4 adapters: none knows another, but for what a port promises
    "linux": VALUES | {"network", "esp", "system"},
    "runtime": VALUES | {"system"},
    "store": VALUES | {"pki", "system"},
    "api": VALUES | {"control", "pki", "runtime", "system"},
    "session": VALUES | {"pki", "system"},
    "lens": VALUES | {"system"},
    # 5 parts
    "engine": VALUES | {"network", "dns", "system", "linux", "runtime", "lens"},
    "agent": VALUES | {"engine", "system", "session", "lens"},
    "manager": VALUES | {"control", "pki", "system", "session", "store", "lens"},
    # 6 whole
    "daemon": (
        VALUES
        | {
            "control",
            "network",
            "pki",
            "system",
            "linux",
            "runtime",
            "store",
            "api",
            "session",
            "lens",
            "engine",
            "agent",
            "manager",
        }
    ),
    # 7 doors
    "lab": VALUES | {"api", "system"},
    "cli": VALUES | {"api", "daemon", "lab", "lens", "store", "system"},
    "__main__": {"cli"},
}
"""For each package the others that it may import, floor by floor: a package imports from floors
below its own."""
ONLY_PORTS = {("api", "runtime"), ("engine", "linux"), ("engine", "runtime")}
"""Of these only `base` may be imported: what the adapter promises, without how."""
OF_THE_SWARM = {
    "Assignment",
    "AssignmentChange",
    "TaskAssignment",
    "TaskId",
    "TaskStatus",
    "TaskState",
}
PURE = {"errors", "model", "control", "network", "dns", "esp", "pki"}
SIDE_EFFECTS = {
    "asyncio", "os", "random", "secrets", "select", "selectors", "signal", "socket", "ssl", "subprocess", "threading", "time",
}  # fmt: skip
MAY_ENTER_NAMESPACES = {"linux/", "lab/"}
"""The lab makes hosts out of namespaces and `weft lab exec` enters them; the daemon does so in
linux/ only."""
MAY_IMPORT_BY_NAME = {"cli/__init__.py", "cli/root.py"}
"""Subcommands are imported when they are asked for: `weft lab exec` must start fast."""
A_CONTAINERS_FILES = {"merged", "upper"}
"""Attributes of `runtime.record.Directory`: below them a container changes what it likes, while the
daemon looks."""
MAY_BE_GIVEN_THEM = {
    "mount_overlay",
    "unmount",
    "read_accounts",
    "make_init_files",
    "open_overlay",
    "open_view",
    "size_of",
    "changes",
    "layer",
    "populate",
}
"""The first two look at nothing in there; the others open only what the kernel says is inside, and
read regular files; the last one before the container's first process exists."""
PROCESS_STARTERS = {
    "create_subprocess_exec",
    "create_subprocess_shell",
    "posix_spawn",
    "fork",
    "execvp",
    "execvpe",
    "execv",
    "system",
    "popen",
}
MUTABLE_BUILDERS = {
    "list",
    "dict",
    "set",
    "bytearray",
    "deque",
    "defaultdict",
    "Counter",
    "OrderedDict",
    "count",
    "ContextVar",
}
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_NESTING = 500, 60, 4
MAX_CONSTRUCTOR_PARAMETERS = 7
"""Beside `self`. What needs more is two things, or takes a value that has a name."""


@each_module
def test_packages_import_from_floors_below(module: Module) -> None:
    wrong = []
    for name in ours(module):
        other = name.split(".")[1]
        if module.layer in ("", other):
            continue
        is_port = name.split(".")[-1] == "base" or (module.layer, other) not in ONLY_PORTS
        if other not in MAY_IMPORT[module.layer] or not is_port:
            wrong.append(name)
    assert not wrong, f"{module.where} reaches out to {wrong}"


def test_the_table_allows_no_circle_and_nothing_that_is_not_needed() -> None:
    needed = {
        (module.layer, name.split(".")[1])
        for module in ALL
        if module.layer
        for name in ours(module)
    }
    spare = {
        (here, other)
        for here, others in MAY_IMPORT.items()
        for other in others
        if (here, other) not in needed
    }
    assert not {pair for pair in spare if pair[1] not in VALUES}, f"nobody needs {spare}"
    TopologicalSorter(MAY_IMPORT).prepare()


@each_module
def test_nothing_but_fakes_and_tests_imports_a_fake(module: Module) -> None:
    fakes = {other.name for other in ALL if is_fake(other)}
    assert is_fake(module) or not ours(module) & fakes, f"{module.where} imports a fake"


@each_module
def test_values_and_logic_touch_nothing(module: Module) -> None:
    if module.layer in PURE:
        used = {name.split(".")[0] for name in imported(module)} & SIDE_EFFECTS
        assert not used, (
            f"{module.where} imports {sorted(used)}: pass the value in (now=, ids=, entropy=)"
        )
        assert "open" not in set(calls(module.tree)), f"{module.where} opens a file"


@each_module
def test_network_and_control_do_not_know_each_other(module: Module) -> None:
    layers = {name.split(".")[1] for name in ours(module)}
    assert not (module.layer == "network" and "control" in layers)
    assert not (module.layer == "control" and "network" in layers)


@each_module
def test_what_works_without_a_swarm_knows_workloads_and_no_tasks(module: Module) -> None:
    """`agent/workloads.py` makes workloads of tasks: the arrow goes from the swarm's worker to the
    engine."""
    if module.layer in ("engine", "network", "dns"):
        names = {
            alias.name
            for n in ast.walk(module.tree)
            if isinstance(n, ast.ImportFrom)
            for alias in n.names
        }
        assert not names & OF_THE_SWARM, (
            f"{module.where} imports {names & OF_THE_SWARM}: take a workload, or overlays"
        )


@each_module
def test_only_linux_speaks_to_the_kernel(module: Module) -> None:
    if module.layer == "linux":
        return
    netlink = [
        n
        for n in ast.walk(module.tree)
        if isinstance(n, ast.Attribute | ast.Name) and "AF_NETLINK" in ast.unparse(n)
    ]
    assert not netlink, f"{module.where} opens netlink sockets"
    if not module.where.startswith(tuple(MAY_ENTER_NAMESPACES)):
        entered = {
            name for name in calls(module.tree) if name.split(".")[-1] in ("setns", "unshare")
        }
        assert not entered, f"{module.where} moves between namespaces: {entered}"
    if module.layer != "lab":  # it asks the machine whether a firewall is in the way
        first_words = {
            node.elts[0].value
            for node in ast.walk(module.tree)
            if isinstance(node, ast.List) and node.elts and isinstance(node.elts[0], ast.Constant)
        }
        found = first_words & {"nft", "sysctl", "ip", "bridge", "tc"}
        assert not found, f"{module.where} runs {found}"


@each_module
def test_a_cause_is_never_missing(module: Module) -> None:
    """`OSError.strerror` is None where the error was raised without a number: `errors.cause_of` has
    words for every one."""
    if module.where not in ("errors.py", "linux/netlink/message.py"):
        used = [
            n
            for n in ast.walk(module.tree)
            if isinstance(n, ast.Attribute) and n.attr == "strerror"
        ]
        assert {ast.unparse(n.value) for n in used} <= {"os"}, (
            f"{module.where} uses strerror: take errors.cause_of"
        )


@each_module
def test_processes_are_started_by_few(module: Module) -> None:
    """Containers by runtime/, programs of the system by linux/, hosts of the lab by lab/, all of
    them by system/: nobody else starts a process. daemon/host_info.py asks programs for their
    versions."""
    if (
        module.layer not in ("runtime", "linux", "lab", "system")
        and module.where != "daemon/host_info.py"
    ):
        started = {
            name
            for name in calls(module.tree)
            if name.split(".")[-1] in PROCESS_STARTERS or name.startswith("subprocess.")
        }
        assert not started, f"{module.where} starts processes: {started}"


@each_module
def test_what_a_container_writes_is_looked_at_in_one_way(module: Module) -> None:
    """A name in there may be a link out, a FIFO that waits, a device. So whoever has the path hands
    it to few; and what reads there does so in a thread."""
    if module.where == "runtime/record.py":
        return
    parents = {
        child: node for node in ast.walk(module.tree) for child in ast.iter_child_nodes(node)
    }
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Attribute) or node.attr not in A_CONTAINERS_FILES:
            continue
        user = parents[node]
        if isinstance(user, ast.Call) and user.func is node:
            continue  # str.upper
        takers = (
            [ast.unparse(part) for part in (user.func, *user.args)]
            if isinstance(user, ast.Call)
            else []
        )
        assert {taker.split(".")[-1] for taker in takers} & MAY_BE_GIVEN_THEM, (
            f"{module.where}:{node.lineno} uses {ast.unparse(node)}, which is a container's"
        )
    joined = {
        ast.unparse(n.right).strip("'\"")
        for n in ast.walk(module.tree)
        if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Div)
    }
    assert module.where == "runtime/spec.py" or not joined & A_CONTAINERS_FILES, (
        f"{module.where} makes the path itself"
    )
    if module.where != "runtime/users.py":
        assert "read_accounts" not in set(calls(module.tree)), (
            f"{module.where} looks for users on the event loop"
        )


@each_module
def test_answers_without_a_known_end_are_begun_in_one_place(module: Module) -> None:
    """Who begins one must also end it when something fails: an HTTP error in the middle of it would
    be read as part of it."""
    if module.layer == "api" and module.where != "api/streams.py":
        begun = {name.split(".")[-1] for name in calls(module.tree)} & {
            "take_over",
            "StreamResponse",
        }
        assert not begun, f"{module.where} calls {begun}: use carry or streamed of api/streams.py"


@each_module
def test_numbers_in_text_are_read_in_one_place(module: Module) -> None:
    """`int` raises for more than 4,300 digits, and `isdecimal` is true of digits that few
    expect."""
    if module.layer != "testing" and module.name != "weft.model.numbers":
        asked = {name.split(".")[-1] for name in calls(module.tree)} & {
            "isdecimal",
            "isdigit",
            "isnumeric",
        }
        assert not asked, f"{module.where} calls {asked}: use model.numbers.decimal"


@each_module
def test_no_imports_inside_functions(module: Module) -> None:
    inner = [
        node
        for function in functions(module.tree)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert not inner, f"{module.where}:{inner[0].lineno} imports inside a function" if inner else ""
    if module.where not in MAY_IMPORT_BY_NAME:
        by_name = {name for name in imported(module) if name.split(".")[0] == "importlib"}
        assert by_name <= {
            "importlib.resources",
            "importlib.metadata",
        }, f"{module.where} imports {by_name}"


def test_no_import_cycles() -> None:
    graph = {module.name: ours(module) - {module.name} for module in ALL}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@each_module
def test_no_mutable_module_state(module: Module) -> None:
    """Constants may be dicts and sets that nobody changes; names in lower case and `global` are
    state."""
    for statement in module.tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            empty = isinstance(statement.value, ast.List | ast.Dict) and not ast.unparse(
                statement.value
            ).strip("[]{}")
            called = (
                isinstance(statement.value, ast.Call)
                and ast.unparse(statement.value.func).split(".")[-1] in MUTABLE_BUILDERS
            )
            empty_call = (
                called and isinstance(statement.value, ast.Call) and not statement.value.args
            )
            assert not empty, (
                f"{module.where}:{statement.lineno} {ast.unparse(targets[0])} starts empty, so"
                " somebody fills it"
            )
            assert not empty_call, (
                f"{module.where}:{statement.lineno} {ast.unparse(targets[0])} is mutable state"
            )
    assert not [node for node in ast.walk(module.tree) if isinstance(node, ast.Global)], (
        f"{module.where} uses `global`"
    )


@each_module
def test_no_container_of_a_module_is_filled_at_run_time(module: Module) -> None:
    """Whatever it is made by: `WeakKeyDictionary()` is state as well."""
    names = {
        target.id
        for statement in module.tree.body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        for target in (
            statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        )
        if isinstance(target, ast.Name)
    }
    for function in functions(module.tree):
        local = {
            n.id
            for n in ast.walk(function)
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        local |= {argument.arg for argument in ast.walk(function) if isinstance(argument, ast.arg)}
        for changed in changes_in(function):
            assert changed not in names - local, (
                f"{module.where}: {function.name} changes {changed}, which is the module's"
            )


@each_module
def test_every_module_says_what_it_is(module: Module) -> None:
    if module.tree.body:
        docstring = ast.get_docstring(module.tree)
        assert docstring, f"{module.where} has no docstring"
        assert len(docstring.splitlines()) <= 40, f"{module.where}: its docstring is an essay"


@each_module
def test_log_events_have_one_key_for_causes(module: Module) -> None:
    """So that one search finds them all."""
    called = (node for node in ast.walk(module.tree) if isinstance(node, ast.Call))
    events = [ast.unparse(call) for call in called if ast.unparse(call.func).startswith("log.")]
    wrong = [event for event in events if re.search(r"\b(error|err|reason|why|exception)=%", event)]
    assert not wrong, f"{module.where}: {wrong[0]} has another key than `cause`"


@each_module
def test_files_and_functions_are_small(module: Module) -> None:
    lines = len(module.text.splitlines())
    assert lines <= MAX_FILE_LINES, f"{module.where} has {lines} lines"
    for function in functions(module.tree):
        assert length(function) <= MAX_FUNCTION_LINES, (
            f"{module.where}: {function.name} has {length(function)} lines"
        )
        assert nesting(function) <= MAX_NESTING, (
            f"{module.where}: {function.name} is nested {nesting(function)} deep"
        )


@each_module
def test_constructors_have_few_parameters(module: Module) -> None:
    for function in functions(module.tree):
        if function.name == "__init__":
            count = len(parameters(function)) - 1
            assert count <= MAX_CONSTRUCTOR_PARAMETERS, (
                f"{module.where}:{function.lineno} has {count} parameters"
            )


def test_the_rules_see_the_code() -> None:
    """Rules that look at nothing always hold."""
    assert len(ALL) > 30
    assert any(module.layer == "model" for module in ALL)
    sample = ast.parse(
        "def f():\n    if a:\n        for b in c:\n            pass\n    elif d:\n        pass\n"
    )
    assert nesting(next(functions(sample))) == 2
    many = ast.parse("class A:\n    def __init__(self, a, /, b, *c, d=1, **e): pass\n")
    assert [parameters(each) for each in functions(many)] == [["self", "a", "b", "c", "d", "e"]]
