"""Looks from afar: one large object in a photograph, and what must not be taken for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_attnseg.core import size
from napari_attnseg.core.size import COARSE, FAR, SURE, settle_zoom
from napari_attnseg.records import DenseMaps

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

SIDE = 512
ONE = 400.0  # the diameter of the one large object, pixels


@pytest.fixture
def votes(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Set how well votes agree, at the far zooms and elsewhere, without any in the maps."""
    agree = {"far": 1.0, "near": 0.5}
    monkeypatch.setattr(size, "agreement", lambda maps: agree["far" if maps.size[0, 0] == ONE else "near"])
    return agree


def view(foreground: npt.NDArray[np.float64], diameter: float) -> DenseMaps:
    flat = np.ones(foreground.shape, dtype=np.float32)
    votes = np.zeros((2, *foreground.shape), dtype=np.float32)
    return DenseMaps(foreground.astype(np.float32), flat, flat * np.float32(diameter), votes)


def disc(blur: float, sure: float = 0.97, side: int = SIDE) -> npt.NDArray[np.float64]:
    """Return the foreground of one large disc whose border is as soft as a Gaussian of ``blur`` pixels."""
    y, x = np.mgrid[:side, :side] - side / 2
    out: npt.NDArray[np.float64] = sure * gaussian_filter((np.hypot(y, x) < 0.39 * side) * 1.0, blur)
    return out


def specks(number: int, sure: float, side: int = SIDE) -> npt.NDArray[np.float64]:
    """Return a field in which about so many specks of 20 pixels were found."""
    out = np.full((side, side), 0.1)
    out.ravel()[: round(number * np.pi / 4 * 20**2)] = sure
    return out


def search(near: DenseMaps, far: Mapping[float, npt.NDArray[np.float64]]) -> tuple[float, list[float]]:
    """Return the zoom that is found, and those that were looked at; ``far`` is what the far ones show."""
    runs: list[float] = []

    def run(zoom: float) -> DenseMaps:
        runs.append(zoom)
        return view(far[zoom], ONE) if zoom in far else near

    return settle_zoom(run, 24)[0], runs


@pytest.mark.usefixtures("votes")
@pytest.mark.parametrize("number", [0, 3, 18])
def test_one_large_object_is_found_where_few_things_were(number: int) -> None:
    zoom, runs = search(view(specks(number, 0.7), 20), dict.fromkeys(FAR, disc(3)))
    assert zoom == FAR[0]
    assert runs[-1] == FAR[0]
    assert FAR[1] not in runs  # the coarser look comes first and is enough


@pytest.mark.usefixtures("votes")
def test_the_finer_far_look_counts_where_the_coarser_one_is_unsure() -> None:
    assert search(view(specks(3, 0.7), 20), {FAR[0]: disc(3, 0.8), FAR[1]: disc(3)})[0] == FAR[1]


@pytest.mark.usefixtures("votes")
@pytest.mark.parametrize(
    ("near", "why"),
    [
        pytest.param(specks(60, 0.7), "tissue is not one large object", id="many things"),
        pytest.param(specks(3, SURE + 0.03), "what is sure is believed", id="sure"),
        pytest.param(specks(3, 0.7, side=300), "too few pixels are left", id="small image"),
    ],
)
def test_no_look_from_afar(near: npt.NDArray[np.float64], why: str) -> None:
    _, runs = search(view(near, 20), {})
    assert min(runs) > FAR[0], why
    if near.shape[0] == SIDE:
        assert min(runs) > FAR[1], why


@pytest.mark.parametrize(
    ("seen", "agree"),
    [
        pytest.param(disc(60, 1.0), 1.0, id="uneven light has no border"),
        pytest.param(np.full((SIDE, SIDE), 0.97), 1.0, id="all of the field"),
        pytest.param(disc(3, 0.85), 1.0, id="unsure"),
        pytest.param(disc(3), 0.9, id="pixels vote for several places"),
    ],
)
def test_what_is_seen_from_afar_is_not_believed(
    seen: npt.NDArray[np.float64], agree: float, votes: dict[str, float]
) -> None:
    votes["far"] = agree
    zoom, runs = search(view(specks(3, 0.7), 20), dict.fromkeys(FAR, seen))
    assert set(FAR) <= set(runs)
    assert zoom not in FAR


@pytest.mark.usefixtures("votes")
def test_a_second_look_that_finds_it_comes_first() -> None:
    second = view(specks(30, 0.95), 100)

    def run(zoom: float) -> DenseMaps:
        return second if zoom == COARSE else view(specks(3, 0.7), 20)

    assert settle_zoom(run, 24)[0] == COARSE
