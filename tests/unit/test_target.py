"""How the user's code is found, and what is said when it is not."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkserve.errors import TargetError
from forkserve.target import load_target
from tests.unit.test_source import leave_stale_bytecode


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder of the test's own, and forget afterwards what it imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "path_hooks", sys.path_hooks[:])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_name_in_a_module_of_the_current_folder(folder: Path) -> None:
    """The current folder is on the import path."""
    (folder / "shop_a.py").write_text("handler = 'the handler'\n")
    assert load_target("shop_a:handler") == "the handler"


def test_a_name_in_a_package(folder: Path) -> None:
    """A module may be a dotted name."""
    (folder / "shop_b").mkdir()
    (folder / "shop_b" / "counter.py").write_text("handler = 'the handler'\n")
    assert load_target("shop_b.counter:handler") == "the handler"


def test_a_name_in_a_file(folder: Path) -> None:
    """A module may be a path, relative or not."""
    (folder / "sub").mkdir()
    (folder / "sub" / "shop_c.py").write_text("handler = object()\n")
    first = load_target("sub/shop_c.py:handler")
    assert first is sys.modules["shop_c"].handler
    assert load_target(f"{folder}/sub/shop_c.py:handler") is not first


@pytest.mark.parametrize("target", ["shop_j:answer", "shop_j.py:answer"])
def test_the_source_is_loaded(target: str, folder: Path) -> None:
    """An edit of one length, in the same second as the one before, is served all the same."""
    leave_stale_bytecode(folder / "shop_j.py", "answer = 1\n", "answer = 2\n")
    assert load_target(target) == 2


def test_nothing_is_left_beside_the_source(folder: Path) -> None:
    """Loading a target writes no __pycache__ into the user's folders."""
    (folder / "shop_k.py").write_text("import shop_k_helper\n")
    (folder / "shop_k_helper.py").write_text("")
    load_target("shop_k.py:shop_k_helper")
    assert sorted(path.name for path in folder.iterdir()) == ["shop_k.py", "shop_k_helper.py"]


def test_a_dotted_name(folder: Path) -> None:
    """The name may lead through attributes."""
    (folder / "shop_d.py").write_text("class Till:\n    class Handler:\n        pass\n")
    assert load_target("shop_d:Till.Handler").__qualname__ == "Till.Handler"


def test_a_file_imports_what_lies_beside_it(folder: Path) -> None:
    """Modules beside the file can be imported by it."""
    (folder / "sub").mkdir()
    (folder / "sub" / "shop_e.py").write_text("from shop_e_helper import handler\n")
    (folder / "sub" / "shop_e_helper.py").write_text("handler = 'helped'\n")
    assert load_target("sub/shop_e.py:handler") == "helped"


def test_a_file_named_as_a_module_of_the_standard_library(folder: Path) -> None:
    """Such a file is served, and hides the module from nobody."""
    (folder / "wave.py").write_text("handler = 'mine'\n")
    (folder / "json.py").write_text("handler = 'mine'\n")
    import json

    assert load_target("wave.py:handler") == "mine"
    assert load_target("json.py:handler") == "mine"
    assert sys.modules["json"] is json
    assert "wave" not in sys.modules


def test_what_lies_beside_a_file_hides_no_installed_module(folder: Path) -> None:
    """A folder that comes with a file is looked in last."""
    (folder / "sub").mkdir()
    (folder / "sub" / "wave.py").write_text("raise AssertionError\n")
    (folder / "sub" / "shop_f.py").write_text("import wave\nhandler = wave.__file__\n")
    assert not load_target("sub/shop_f.py:handler").startswith(str(folder))


@pytest.mark.parametrize("source", ["1 / 0", "import shop_none", "raise SystemExit(3)", "def"])
@pytest.mark.parametrize("place", ["shop_g", "shop_g.py"])
def test_a_module_that_raises_keeps_its_cause(place: str, source: str, folder: Path) -> None:
    """Whatever the import raises is the cause of the error that names target and exception."""
    (folder / "shop_g.py").write_text(source)
    with pytest.raises(TargetError, match=rf"^target '{place}:x': importing {place} raised") as it:
        load_target(f"{place}:x")
    assert type(it.value.__cause__).__name__ in str(it.value)


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("nothing", "expected package.module:name or path/to/file.py:name"),
        ("", "expected"),
        (":x", "expected"),
        ("shop_h:", "expected"),
        ("shop_none:x", "there is no module 'shop_none'"),
        ("shop_none.inner:x", "there is no module 'shop_none'"),
        ("shop_h.inner:x", "there is no module 'shop_h.inner'"),
        ("shop_h:nobody", "shop_h has no 'nobody'"),
        ("shop_h:value.nobody", "shop_h has no 'value.nobody'"),
        ("shop_none.py:x", "there is no file 'shop_none.py'"),
        ("./sub:x", "there is no file './sub'"),
        ("./notes:x", "'./notes' is not a Python file"),
    ],
)
def test_what_is_missing(target: str, problem: str, folder: Path) -> None:
    """What is not there is named, and nobody's traceback is shown for it."""
    (folder / "shop_h.py").write_text("value = 1\n")
    (folder / "notes").write_text("not Python\n")
    (folder / "sub").mkdir()
    with pytest.raises(TargetError) as caught:
        load_target(target)
    assert str(caught.value).startswith(f"target {target!r}: ")
    assert problem in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_name_that_raises_when_it_is_looked_up(folder: Path) -> None:
    """A module's own __getattr__ is the user's code, whatever it raises."""
    (folder / "shop_i.py").write_text("def __getattr__(name):\n    raise RuntimeError(name)\n")
    with pytest.raises(TargetError, match="RuntimeError"):
        load_target("shop_i:handler")
