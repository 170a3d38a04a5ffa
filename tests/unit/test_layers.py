"""Hold the house's layers: who may import whom, and who alone may act on processes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import forkserve

PACKAGE = Path(forkserve.__file__).parent

# Top to bottom. A module imports only from rows below its own.
ROWS = (
    ("__main__",),
    ("cli",),
    ("bench.command",),
    ("bench.session", "bench.show"),
    ("bench.recommend",),
    ("bench.reasons",),
    ("bench.score",),
    ("bench.measured",),
    ("bench.rounds", "bench.idle", "bench.probe", "bench.client"),
    (
        "bench.arguments",
        "bench.load",
        "bench.server",
        "bench.errors",
        "bench.variants",
        "bench.progress",
    ),
    ("bench",),
    ("bench.conversation", "bench.usage", "bench.environment"),
    ("bench.page",),
    ("bench.drawing",),
    ("bench.chart",),
    ("bench.figures", "bench.table", "bench.svg"),
    ("supervised",),
    ("__init__",),
    ("server",),
    ("adopt", "process.leader", "process.alone", "in_process"),
    ("process.worker",),
    ("strategies",),
    ("strategies.preforked",),
    ("strategies.iterative", "strategies.threaded", "strategies.forking"),
    ("service",),
    ("acceptor", "stock_server"),
    ("stock_request", "stock_binding"),
    ("door", "compat"),
    ("run_handler",),
    ("handler", "view", "process.supervisor"),
    ("process.home",),
    ("binding", "admission"),
    ("listener", "datagram", "streams", "lingering"),
    ("connection", "endpoint"),
    ("process.generations", "process.overseer", "process.watcher"),
    (
        "process.cause",
        "process.channel",
        "process.fork",
        "process.group",
        "process.hang",
        "process.inbox",
        "process.libc",
        "process.policy",
        "process.reaper",
        "process.title",
    ),
    ("process", "process.phase"),
    ("alarm", "hooks", "pulse", "settings", "stacks", "target", "unix_path", "occupant"),
    ("address", "log", "scoreboard", "signals", "source", "stop", "wait", "wakeup"),
    ("errors",),
)
LEVEL = {module: len(ROWS) - row for row, modules in enumerate(ROWS) for module in modules}

# Who may look up all the same, and why.
EXCEPTIONS = {
    ("connection", "streams"): "makefile() is rare, so its module is imported by the first call",
}

# What loads, runs or waits for a user's code: none of it is ever in reach of the supervisor.
USERS_SIDE = {
    "adopt",
    "compat",
    "handler",
    "hooks",
    "in_process",
    "process.leader",
    "process.worker",
    "run_handler",
    "server",
    "service",
    "source",
    "strategies",
    "supervised",
    "target",
    "view",
}

# Who alone may name these, whether to call them or to hand them on.
ONLY_IN = {
    "os.fork": {"process.fork"},
    "os.waitpid": {"process.reaper"},
    "os.waitid": {"process.reaper"},
    "os.wait": set(),
    "os.wait3": set(),
    "os.wait4": {"bench.server"},
    # signals: a process that is told to end while it boots has nothing to clean up yet
    "os._exit": {"process.fork", "signals"},
    # parents their children; libc, pulse and view the parent; signals itself
    "os.kill": {
        "bench.server",
        "process.leader",
        "process.libc",
        "process.supervisor",
        "process.watcher",
        "pulse",
        "signals",
        "strategies.forking",
        "view",
    },
    "os.killpg": {"process.group"},
    "signal.pidfd_send_signal": {"process.group"},
    "signal.pthread_sigmask": {"signals"},
    "signal.signal": {"bench.client", "signals"},
    "ctypes.CDLL": {"process.libc"},
    "gc.freeze": {"process.supervisor", "server"},
    "sys.exit": {"__main__"},
    "print": set(),
    "time.sleep": set(),
    "time.time": set(),
}


def _modules() -> dict[str, Path]:
    """Return the path of every module of the package by its name below `forkserve.`."""
    return {_short_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _short_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


MODULES = _modules()


def _imports(source: str, module: str) -> set[str]:
    """Return the modules of the package that this source imports when it runs."""
    is_package = MODULES.get(module, Path()).name == "__init__.py"
    found: set[str] = set()
    for node in _running_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {_owner(alias.name) for alias in node.names if _is_ours(alias.name)}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module, is_package=is_package)
            if _is_ours(base):
                found |= {_owner(f"{base}.{alias.name}") for alias in node.names}
    return found


def _reach(module: str) -> set[str]:
    """Return every module of the package that comes with this one, late imports included."""
    found: set[str] = set()
    new = {module}
    while new:
        new = {m for name in new for m in _imports(MODULES[name].read_text(), name)} - found
        found |= new
    return found


def _importers(module: str) -> set[str]:
    return {m for m, path in MODULES.items() if module in _imports(path.read_text(), m)}


def _foreign_imports(source: str) -> set[str]:
    """Return the modules outside of the package that a source imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {name for name in found if not _is_ours(name)}


def _running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield every node but those under `if TYPE_CHECKING:`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from _running_nodes(other)
        else:
            yield from _running_nodes(child)


def _absolute(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    """Return the full name of the module that a from-import names, dots resolved."""
    if not node.level:
        return node.module or ""
    parents = ["forkserve", *module.split(".")]
    if module == "__init__":
        parents = ["forkserve"]
    elif not is_package:
        parents.pop()
    kept = parents[: len(parents) - node.level + 1]
    return ".".join([*kept, *filter(None, [node.module])])


def _is_ours(name: str) -> bool:
    return name.split(".")[0] == "forkserve"


def _owner(name: str) -> str:
    """Return the module that a dotted name lives in: itself, or what it is taken from."""
    short = name.removeprefix("forkserve").removeprefix(".")
    while short and short not in MODULES:
        short = short.rpartition(".")[0]
    return short or "__init__"


def _names_used(source: str) -> set[str]:
    """Return every builtin and `module.attribute` that the source names, aliases resolved."""
    tree = ast.parse(source)
    modules: dict[str, str] = {}
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            used |= {f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.add(f"{modules.get(node.value.id, node.value.id)}.{node.attr}")
        elif isinstance(node, ast.Name):
            used.add(node.id)
    return used


def _upward(source: str, module: str) -> set[str]:
    """Return what the source imports although it does not lie below the module."""
    allowed = {above for below, above in EXCEPTIONS if below == module}
    return {name for name in _imports(source, module) if LEVEL[name] >= LEVEL[module]} - allowed


def _trespasses(source: str, module: str) -> set[str]:
    """Return the guarded names that the source uses without being the one who may."""
    return {name for name in _names_used(source) & set(ONLY_IN) if module not in ONLY_IN[name]}


def test_the_table_names_every_module_and_no_other() -> None:
    """A new module gets its row, and a module that is gone leaves it."""
    assert set(LEVEL) == set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module: str) -> None:
    """No module imports from its own row or from one above."""
    assert _upward(MODULES[module].read_text(), module) == set()


@pytest.mark.parametrize(("module", "above"), EXCEPTIONS)
def test_an_exception_is_still_needed(module: str, above: str) -> None:
    """An exception goes when the import that needed it goes."""
    assert above in _imports(MODULES[module].read_text(), module)


@pytest.mark.parametrize("module", ["process.supervisor", "process.generations", "process.home"])
def test_the_supervisor_is_far_from_the_users_code(module: str) -> None:
    """What outlives every generation imports nothing by which a target is loaded or served."""
    assert _reach(module) & USERS_SIDE == set()


def test_one_module_joins_the_supervisor_and_the_users_code() -> None:
    """The supervisor is handed what its children do, by supervised alone."""
    assert _importers("process.supervisor") == {"supervised"}


@pytest.mark.parametrize("module", ["process.policy", "process.generations", "process.phase"])
def test_who_decides_does_not_act(module: str) -> None:
    """Decisions depend on values alone: their modules see neither clock nor system."""
    assert _reach(module) <= {"process", "process.phase", "process.policy"}
    assert _foreign_imports(MODULES[module].read_text()) <= {"enum", "typing"}


@pytest.mark.parametrize("module", MODULES)
def test_only_its_owner_acts(module: str) -> None:
    """Fork, wait, exit, signal handlers and print have one home each; sleep has none."""
    assert _trespasses(MODULES[module].read_text(), module) == set()


@pytest.mark.parametrize("name", [name for name, owners in ONLY_IN.items() if owners])
def test_the_owner_table_is_not_wider_than_the_code(name: str) -> None:
    """Whoever is allowed a name also uses it."""
    users = {module for module in MODULES if name in _names_used(MODULES[module].read_text())}
    assert users == ONLY_IN[name]


@pytest.mark.parametrize("module", MODULES)
def test_the_first_line_says_what_the_module_is(module: str) -> None:
    """A module's docstring begins with one sentence on one line, and not with "This module"."""
    docstring = ast.get_docstring(ast.parse(MODULES[module].read_text())) or ""
    first_line = docstring.partition("\n")[0]
    assert re.fullmatch(r"(?!This module)(?:[^.]|\.(?! ))+\.", first_line)


@pytest.mark.parametrize("name", forkserve.__all__)
def test_public_names_exist(name: str) -> None:
    """Every name in `__all__` is there."""
    assert getattr(forkserve, name) is not None


@pytest.mark.parametrize(
    "source",
    [
        "import forkserve.server",
        "from forkserve import server",
        "from forkserve.server import Server",
        "from forkserve import Server",
        "from . import server",
        "from .server import Server",
        "def late():\n    from forkserve.server import Server",
        "if TYPE_CHECKING:\n    pass\nelse:\n    from forkserve.server import Server",
    ],
)
def test_an_upward_import_is_seen(source: str) -> None:
    """No spelling of an import hides that it points upward."""
    assert _upward(source, "acceptor")


@pytest.mark.parametrize(
    "source",
    [
        "if TYPE_CHECKING:\n    from forkserve.server import Server",
        "if typing.TYPE_CHECKING:\n    from .server import Server",
        "from forkserve.errors import ForkserveError",
        "from . import errors",
        "import socket",
    ],
)
def test_a_downward_import_is_free(source: str) -> None:
    """What lies below, and what only a type checker reads, may be imported."""
    assert _upward(source, "acceptor") == set()


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.fork()",
        "import os as system\nsystem.fork()",
        "from os import fork",
        "from os import fork as split",
        "import os\nhand_on(os.fork)",
        "import time\ntime.sleep(1)",
        "print('hello')",
    ],
)
def test_a_trespass_is_seen(source: str) -> None:
    """No spelling hides that a guarded name is used."""
    assert _trespasses(source, "acceptor")
