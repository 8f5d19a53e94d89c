"""What all layers' tests share: a home of their own, the real images, and the GPU mark.

Nothing heavy is imported here: the tests of ``core`` run where torch, Qt and napari are not installed.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

DATA = "NAPARI_ATTNSEG_DATA"


@pytest.fixture(autouse=True, scope="session")
def _own_folders(tmp_path_factory: pytest.TempPathFactory):
    """Keep models, runs, caches and napari's settings of the tests (and of their children) apart; float32."""
    folder = tmp_path_factory.mktemp("home")
    mine = {
        "NAPARI_ATTNSEG_HOME": str(folder / "attnseg"),
        "NAPARI_CONFIG": str(folder / "napari" / "settings.yaml"),
        "NAPARI_ATTNSEG_PRECISION": "float32",  # the same numbers on every processor
    }
    before = {name: os.environ.get(name) for name in mine}
    os.environ.update(mine)
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real images with ``train`` and ``val`` in it; only for tests marked ``data``."""
    return Path(os.environ[DATA])


def _gpu() -> bool:
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("data") and not (os.environ.get(DATA) and Path(os.environ[DATA]).is_dir()):
        pytest.skip(f"needs real images: set {DATA} to a folder with train/ and val/")
    if item.get_closest_marker("gpu") and not _gpu():
        pytest.skip("needs a CUDA or MPS device")
    if item.get_closest_marker("e2e") and sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        pytest.fail("needs a screen: run under xvfb-run -a", pytrace=False)
