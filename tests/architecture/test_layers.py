"""The layer law: import-linter's contracts, start-up cost, and that the law is really enforced."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "napari_attnseg"

NOWHERE: frozenset[str] = frozenset()
# What may be imported when a module is imported; everywhere else it is imported inside functions.
AT_IMPORT = {
    "dask": NOWHERE,
    "magicgui": frozenset({"_qt"}),
    "napari": frozenset({"_napari", "_qt"}),
    "pandas": NOWHERE,
    "qtpy": frozenset({"_qt"}),
    "safetensors": frozenset({"nn"}),
    "scipy": frozenset({"nn"}),
    "skimage": frozenset({"nn"}),
    "superqt": frozenset({"_qt"}),
    "tifffile": NOWHERE,
    "torch": frozenset({"nn"}),
    "zarr": NOWHERE,
    "napari_attnseg.nn": frozenset({"nn"}),
    "napari_attnseg._qt": frozenset({"_qt"}),
    "napari_attnseg._napari": frozenset({"_napari", "_qt"}),
}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    env = {**os.environ, "PYTHONPATH": str(folder / "src"), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, encoding="utf-8", check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(
        PACKAGE, tmp_path / "src" / PACKAGE.name, ignore=shutil.ignore_patterns("weights", "__pycache__")
    )
    return tmp_path


def test_contracts_hold():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kept, 0 broken" in done.stdout


BREACHES = {
    "core names a job": ("core/grid.py", "import napari_attnseg.jobs.segment", "Upper layers use lower ones"),
    "a job names nn": (
        "jobs/segment.py",
        "def f():\n    import napari_attnseg.nn.model",
        "reached through engine only",
    ),
    "store names torch": ("store/models.py", "def f():\n    import torch", "torch lives in nn only"),
    "a job names Qt": ("jobs/segment.py", "def f():\n    from qtpy import QtCore", "Qt lives in _qt only"),
    "core names napari": (
        "core/grid.py",
        "def f():\n    import napari",
        "napari lives in _napari and _qt only",
    ),
    "a module without a layer": ("extra.py", "", "extra"),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_planted_breach_is_seen(copy: Path, breach: str):
    where, line, said = BREACHES[breach]
    file = copy / "src" / "napari_attnseg" / where
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    file.write_text(f"{old}\n{line}\n", encoding="utf-8")
    done = lint_imports(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    broken = done.stdout[done.stdout.index("Broken contracts") :] if "Broken" in done.stdout else done.stdout
    assert said in broken


def modules() -> list[str]:
    """Return the dotted names of all modules of the package."""
    names = []
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def layer(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imported_at_import(file: Path) -> list[str]:
    """Return what importing a module imports by itself: no functions, no TYPE_CHECKING blocks."""
    found: list[str] = []
    todo: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            todo.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        todo.extend(ast.iter_child_nodes(node))
    return found


@pytest.mark.parametrize("module", modules())
def test_heavy_imports_are_inside_functions(module: str):
    path = PACKAGE.parent.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    wrong = [
        name
        for name in imported_at_import(file)
        for heavy, layers in AT_IMPORT.items()
        if (name == heavy or name.startswith(heavy + ".")) and layer(module) not in layers
    ]
    assert not wrong, f"{module} imports {wrong} at module level"


def test_the_search_for_heavy_imports_finds_them(tmp_path: Path):
    file = tmp_path / "m.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\nelse:\n    import zarr\n"
        "def f():\n    import scipy\ntry:\n    from skimage import io\nexcept ImportError:\n    pass\n",
        encoding="utf-8",
    )
    assert sorted(imported_at_import(file)) == ["skimage.io", "typing.TYPE_CHECKING", "zarr"]


def loaded_after(statement: str, names: set[str]) -> set[str]:
    """Return which of ``names`` a fresh interpreter has imported after ``statement``."""
    code = f"import sys\n{statement}\nprint('LOADED', *(n for n in {sorted(names)!r} if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.strip().splitlines()[-1].split()[1:])


def importing(keep: set[str]) -> str:
    chosen = [m for m in modules() if layer(m) in keep]
    assert chosen
    return f"import importlib\nfor name in {chosen!r}:\n    importlib.import_module(name)"


def test_the_pure_layers_load_nothing_heavy():
    pure = {layer(m) for m in modules()} - {"nn", "_qt", "_napari", "__main__"}
    heavy = {"torch", "napari", "qtpy", "magicgui", "skimage", "scipy", "dask", "zarr", "tifffile"}
    assert loaded_after(importing(pure), heavy) == set()


def test_layers_and_events_load_no_torch_and_no_qt():
    assert loaded_after(importing({"_napari"}), {"torch", "qtpy", "superqt"}) == set()


def test_the_window_loads_no_torch():
    assert loaded_after(importing({"_qt"}), {"torch", "qtpy"}) == {"qtpy"}


def test_the_network_loads_no_qt_and_no_napari():
    assert loaded_after(importing({"nn"}), {"torch", "qtpy", "napari"}) == {"torch"}


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["segment", "--help"]])
def test_help_is_quick_to_load(args: list[str]):
    code = (
        f"sys.argv = ['napari-attnseg', *{args!r}]\n"
        "from napari_attnseg.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )
    heavy = {"torch", "napari", "qtpy", "skimage", "scipy", "zarr"}
    assert loaded_after(code, heavy) == set()
