"""The user's code is loaded from its source, and everything else as ever."""

import importlib
import os
import py_compile
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, SourcelessFileLoader
from pathlib import Path
from typing import Any

import pytest

from forkserve import source


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Import from a folder of the test's own by our loader, and forget it all afterwards."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "path_hooks", sys.path_hooks[:])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    before = set(sys.modules)
    source.install()
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def leave_stale_bytecode(path: Path, before: str, after: str) -> None:
    """Write a source whose .pyc was made from an edit of one length in the same second."""
    assert len(before) == len(after)
    path.write_text(before)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    py_compile.compile(str(path))
    path.write_text(after)
    os.utime(path, (1_700_000_000, 1_700_000_000))


def test_python_itself_would_take_the_first_of_two_edits(folder: Path) -> None:
    """Without our hook the stale .pyc wins: what this module is for."""
    leave_stale_bytecode(folder / "pond_a.py", "answer = 1\n", "answer = 2\n")
    sys.path_hooks.pop(0)
    sys.path_importer_cache.clear()
    assert importlib.import_module("pond_a").answer == 1


def test_the_second_of_two_edits_is_loaded(folder: Path) -> None:
    """A module is what its source says now, whatever lies in __pycache__."""
    leave_stale_bytecode(folder / "pond_b.py", "answer = 1\n", "answer = 2\n")
    assert importlib.import_module("pond_b").answer == 2


def test_a_packages_modules_are_loaded_from_their_source(folder: Path) -> None:
    """A package's own code and its submodules are the user's as well."""
    (folder / "pond_c").mkdir()
    leave_stale_bytecode(folder / "pond_c" / "__init__.py", "answer = 1\n", "answer = 2\n")
    leave_stale_bytecode(folder / "pond_c" / "frog.py", "answer = 3\n", "answer = 4\n")
    frog = importlib.import_module("pond_c.frog")
    assert (sys.modules["pond_c"].answer, frog.answer) == (2, 4)


def test_no_bytecode_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's folders stay as they are."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (folder / "pond_d.py").write_text("")
    importlib.import_module("pond_d")
    assert os.listdir(folder) == ["pond_d.py"]


@pytest.mark.parametrize("part", ["site-packages", "dist-packages"])
def test_what_is_installed_is_loaded_from_its_bytecode(
    part: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody edits site-packages, and compiling it takes long."""
    (folder / part).mkdir()
    monkeypatch.syspath_prepend(folder / part)
    leave_stale_bytecode(folder / part / "pond_e.py", "answer = 1\n", "answer = 2\n")
    assert importlib.import_module("pond_e").answer == 1


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (os.__file__, False),
        (importlib.__file__, False),
        (source.__file__, False),
        ("/venv/lib/python3.11/site-packages/redis/client.py", False),
        ("/usr/lib/python3/dist-packages/yaml/__init__.py", False),
        (__file__, True),
        ("/home/me/site-packages.old/shop.py", True),
        (f"{os.path.dirname(os.__file__)}-mine/shop.py", True),
        ("/app/forkserve/shop.py", True),
    ],
)
def test_whose_a_file_is(path: str, expected: bool) -> None:
    """The standard library's, an installed package's and ours are not the user's."""
    assert source.is_users(path) is expected


def test_the_standard_library_is_not_compiled_again() -> None:
    """A module of the standard library comes from its .pyc, by our loader."""
    code = (
        "from forkserve import source\n"
        "source.install()\n"
        "compiled = []\n"
        "source.SourceLoader.source_to_code = lambda self, *_, **__: compiled.append(self.path)\n"
        "import calendar\n"
        "print(type(calendar.__loader__).__name__, compiled)\n"
    )
    subprocess.run([sys.executable, "-c", "import calendar"], check=True)  # writes the .pyc
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "SourceLoader []\n"


def test_a_traceback_shows_the_source(folder: Path) -> None:
    """An error in the user's module is shown with its lines."""
    (folder / "pond_f.py").write_text("def croak():\n    raise ValueError('dry')\n")
    with pytest.raises(ValueError, match="dry") as caught:
        importlib.import_module("pond_f").croak()
    lines = traceback.format_exception(caught.value)
    assert f'  File "{folder}/pond_f.py", line 2, in croak\n    raise ValueError' in "".join(lines)


def test_an_encoding_is_honoured(folder: Path) -> None:
    """A source may declare its encoding."""
    (folder / "pond_g.py").write_bytes("# coding: latin-1\nanswer = 'é'\n".encode("latin-1"))
    assert importlib.import_module("pond_g").answer == "é"


def test_a_namespace_package(folder: Path) -> None:
    """A folder without __init__.py is a package still."""
    (folder / "pond_h" / "deep").mkdir(parents=True)
    (folder / "pond_h" / "deep" / "frog.py").write_text("answer = 1\n")
    assert importlib.import_module("pond_h.deep.frog").answer == 1


def test_a_module_without_source(folder: Path) -> None:
    """A .pyc that was delivered in place of its source is imported still."""
    (folder / "pond_i.py").write_text("answer = 1\n")
    py_compile.compile(str(folder / "pond_i.py"), cfile=str(folder / "pond_i.pyc"))
    (folder / "pond_i.py").unlink()
    module = importlib.import_module("pond_i")
    assert (module.answer, type(module.__loader__)) == (1, SourcelessFileLoader)


def test_an_extension_module(folder: Path) -> None:
    """A module in C is found, and before a source of its name."""
    built: Any = pytest.importorskip("_queue")  # one that may be loaded twice
    if getattr(built, "__file__", None) is None:
        pytest.skip("this Python has its extension modules built in")
    shutil.copy(built.__file__, folder / f"_queue{EXTENSION_SUFFIXES[0]}")
    (folder / "_queue.py").write_text("raise AssertionError\n")
    del sys.modules["_queue"]
    module = importlib.import_module("_queue")
    sys.modules["_queue"] = built
    assert module.__file__ == str(folder / f"_queue{EXTENSION_SUFFIXES[0]}")
    assert isinstance(module.__loader__, ExtensionFileLoader)


def test_installing_it_again(folder: Path) -> None:
    """Whoever installs it a second time changes nothing but what is remembered of folders."""
    hooks = sys.path_hooks[:]
    sys.path_importer_cache[str(folder)] = None
    source.install()
    assert sys.path_hooks == hooks
    assert str(folder) not in sys.path_importer_cache


def test_a_module_added_just_now_is_found(folder: Path) -> None:
    """What lies in a folder is looked up anew, even within the grain of its time of change."""
    os.utime(folder, (1_700_000_000, 1_700_000_000))
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("pond_j")
    (folder / "pond_j.py").write_text("")
    os.utime(folder, (1_700_000_000, 1_700_000_000))
    source.install()
    assert importlib.import_module("pond_j").__name__ == "pond_j"
