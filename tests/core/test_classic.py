from __future__ import annotations

import numpy as np
import pytest

from napari_attnseg.core import classic


@pytest.fixture
def two_tone():
    image = np.full((40, 50), 0.1, dtype=np.float32)
    image[10:20, 10:20] = 0.9
    image[25:35, 30:45] = 0.5
    return image


def test_kmeans_finds_the_tones(two_tone):
    centres = classic.fit_clusters(two_tone.reshape(-1, 1), 3)
    np.testing.assert_allclose(np.sort(centres.ravel()), [0.1, 0.5, 0.9], atol=1e-6)
    classes = classic.as_classes(classic.assign(two_tone[..., None], centres), two_tone)
    assert classes[0, 0] == 0
    assert classes[30, 40] == 1  # the darker of the two
    assert classes[15, 15] == 2


def test_kmeans_is_repeatable_and_copes_with_few_values():
    values = np.random.default_rng(0).random((500, 3)).astype(np.float32)
    np.testing.assert_array_equal(classic.fit_clusters(values, 4, 7), classic.fit_clusters(values, 4, 7))
    assert len(classic.fit_clusters(np.zeros((30, 2), dtype=np.float32), 5)) == 1
    assert len(classic.fit_clusters(np.array([[0.0], [0.0], [1.0]], dtype=np.float32), 9)) == 2


def test_position_separates_equal_tones():
    image = np.full((10, 40, 1), 0.5, dtype=np.float32)
    data = classic.with_position(image)
    assert data.shape == (10, 40, 3)
    index = classic.assign(data, classic.fit_clusters(data.reshape(-1, 3), 2))
    assert len(np.unique(index)) == 2
    assert index[5, 0] != index[5, 39]


def test_regions_are_connected_pieces_of_one_class():
    classes = np.array([[1, 1, 0, 1], [0, 0, 0, 1], [2, 2, 0, 0]], dtype=np.int32)
    out = classic.regions(classes)
    assert out.max() == 3
    assert out[0, 0] == out[0, 1] != out[0, 3]
    assert out[2, 0] not in (0, out[0, 0], out[0, 3])


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (3, 40), (60, 50)])
@pytest.mark.parametrize("channels", [1, 3])
def test_superpixels_cover_any_shape(shape, channels):
    values = np.random.default_rng(0).random((*shape, channels)).astype(np.float32)
    labels = classic.superpixels(values, 20, 10.0, channels == 3)
    assert labels.shape == shape
    assert labels.dtype == np.int32
    assert labels.min() >= 1


def test_superpixels_follow_an_edge(two_tone):
    labels = classic.superpixels(two_tone[..., None], 60, 1.0, False)
    means = classic.mean_by_label(labels, two_tone[..., None])[labels - 1, 0]
    assert np.abs(means - two_tone).mean() < 0.02
