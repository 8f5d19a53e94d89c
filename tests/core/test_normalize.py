from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_attnseg.core import normalize
from napari_attnseg.records import Normalisation


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 999), gain=st.floats(0.5, 50), shift=st.floats(-100, 100))
def test_gain_and_offset_do_not_matter(seed, gain, shift):
    image = np.random.default_rng(seed).random((20, 30)).astype(np.float64)
    a = normalize.apply(image, normalize.percentiles(image))
    other = image * gain + shift
    b = normalize.apply(other, normalize.percentiles(other))
    np.testing.assert_allclose(a, b, atol=2e-3)


def test_colours_are_scaled_together_and_stains_apart():
    image = np.zeros((10, 10, 3))
    image[..., 0] = np.linspace(0, 1, 100).reshape(10, 10)
    image[..., 1] = image[..., 0] * 100
    apart, together = normalize.percentiles(image), normalize.percentiles(image, rgb=True)
    assert apart.high[0] < 1.01 < 90 < apart.high[1]
    assert len(set(together.high)) == len(set(together.low)) == 1


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint32, np.float16, np.float64])
def test_any_dtype_stays_finite_and_is_not_changed(dtype):
    image = (np.random.default_rng(0).random((9, 9)) > 0.5).astype(dtype)
    before = image.copy()
    out = normalize.apply(image, normalize.percentiles(image))
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("fill", [0.0, 7.0, np.nan, np.inf])
def test_constant_and_non_finite_images(fill):
    image = np.full((5, 6), fill)
    norm = normalize.percentiles(image)
    assert norm.high[0] > norm.low[0]
    out = normalize.apply(image, norm)
    assert np.isfinite(out).all()
    assert np.ptp(out) == 0


def test_bad_samples_become_the_lowest_good_one():
    image = np.array([[1.0, np.nan, np.inf], [-np.inf, 5.0, 3.0]])
    np.testing.assert_array_equal(normalize.finite(image), [[1, 1, 1], [1, 5, 3]])


def test_one_bright_spot_is_not_lost():
    image = np.zeros((100, 100))
    image[50, 50] = 10
    assert normalize.percentiles(image) == Normalisation((0.0,), (10.0,))


@pytest.mark.parametrize(
    ("gain", "shift", "dtype"),
    [
        (1e-300, 0, "f8"),
        (1e-42, 0, "f4"),
        (1e300, 0, "f8"),
        (1, 1e12, "f8"),
        (1, 2**40, "u8"),
        (1, 2**31, "u4"),
    ],
)
def test_values_that_float32_cannot_tell_apart(gain, shift, dtype):
    steps = np.arange(100.0).reshape(10, 10)
    odd = (steps * gain).astype(dtype) + np.array(shift).astype(dtype)
    wanted = normalize.apply(steps, normalize.percentiles(steps))
    np.testing.assert_allclose(normalize.apply(odd, normalize.percentiles(odd)), wanted, atol=0.02)


def test_constant_images_of_any_height_are_dark():
    for value in (0.0, -3.0, 1e16, 2.0**63, 1e300):
        image = np.full((4, 4), value)
        assert normalize.apply(image, normalize.percentiles(image)).max() == 0
