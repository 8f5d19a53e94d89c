"""The wheel, the manifest, the declared dependencies and the licence of the code that ships."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "napari_attnseg"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MANIFEST = yaml.safe_load((PACKAGE / "napari.yaml").read_text(encoding="utf-8"))
PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy", ".npz", ".zarr", ".gif", ".bmp", ".h5"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build the wheel with the build backend of this environment: nothing is fetched."""
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = out.glob("*.whl")
    return zipfile.ZipFile(file)


def test_wheel_carries_what_the_plugin_needs(wheel: zipfile.ZipFile):
    names = set(wheel.namelist())
    assert {"napari_attnseg/napari.yaml", "napari_attnseg/py.typed"} <= names
    sources = {f"napari_attnseg/{f.relative_to(PACKAGE).as_posix()}" for f in PACKAGE.rglob("*.py")}
    assert sources <= names
    weights = {n for n in names if n.startswith("napari_attnseg/nn/weights/")}
    assert any(n.endswith(".safetensors") for n in weights)
    assert any(n.endswith(".json") for n in weights)


def test_wheel_has_no_pictures_and_no_tests(wheel: zipfile.ZipFile):
    names = wheel.namelist()
    assert not [n for n in names if Path(n).suffix.lower() in PICTURES]
    assert not [n for n in names if n.startswith(("tests/", "docs/"))]


def test_weights_are_small(wheel: zipfile.ZipFile):
    sizes = {i.filename: i.file_size for i in wheel.infolist() if i.filename.endswith(".safetensors")}
    assert sizes
    assert max(sizes.values()) <= 10_000_000


def test_wheel_metadata(wheel: zipfile.ZipFile):
    (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    text = wheel.read(name).decode()
    assert "Classifier: Framework :: napari" in text
    assert "License-Expression: BSD-3-Clause" in text
    assert not [
        line
        for line in text.splitlines()
        if line.startswith(("Requires-Dist: pyqt5", "Requires-Dist: pyqt6"))
    ]
    (points,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    text = wheel.read(points).decode()
    assert "[napari.manifest]" in text
    assert "napari-attnseg = napari_attnseg.__main__:main" in text


def test_manifest_is_valid():
    done = subprocess.run(
        [sys.executable, "-m", "npe2", "validate", "--imports", "napari-attnseg"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", MANIFEST["contributions"]["commands"], ids=lambda c: c["id"])
def test_every_command_imports(command: dict[str, str]):
    module, _, name = command["python_name"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_every_contribution_names_a_command():
    given = MANIFEST["contributions"]
    known = {c["id"] for c in given["commands"]}
    used = {w["command"] for w in given.get("widgets", [])}
    used |= {s["command"] for s in given.get("sample_data", []) if "command" in s}
    used |= {i["command"] for items in given.get("menus", {}).values() for i in items if "command" in i}
    assert used
    assert used <= known


# distribution -> what it is imported as, where the names differ
IMPORTED_AS = {"app-model": "app_model", "pillow": "PIL", "scikit-image": "skimage"}
# needed at run time without an import of ours: npe2 reads the manifest
NOT_IMPORTED = {"npe2"}


def imported() -> set[str]:
    """Return the top-level names of everything that the package imports, inside functions too."""
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"napari_attnseg"}


def test_dependencies_are_those_that_are_imported():
    declared = {line.split(">")[0].split("[")[0].strip() for line in PROJECT["dependencies"]}
    names = {IMPORTED_AS.get(d, d) for d in declared - NOT_IMPORTED}
    extra = {line.split(">")[0] for line in PROJECT["optional-dependencies"]["onnx"]}
    assert imported() == names | extra


def test_every_dependency_has_its_reason_written_down():
    page = (ROOT / "docs" / "decisions" / "0002-dependencies.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")} - {"package"}
    assert rows == {line.split(">")[0].split("[")[0].strip() for line in PROJECT["dependencies"]}


def test_no_qt_binding_is_required():
    needed = " ".join(PROJECT["dependencies"]).lower()
    assert not [b for b in ("pyqt5", "pyqt6", "pyside", "napari[") if b in needed]
    assert PROJECT["optional-dependencies"]["all"] == ["napari[all]>=0.9"]


def test_torch_has_no_upper_bound():
    (torch,) = (d for d in PROJECT["dependencies"] if d.startswith("torch"))
    assert torch == "torch>=2.6"
