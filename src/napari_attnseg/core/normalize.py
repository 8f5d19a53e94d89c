"""Intensity scaling: percentiles of a plane to about 0..1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.records import Normalisation

if TYPE_CHECKING:
    import numpy.typing as npt

LOW, HIGH = 1.0, 99.8
_MAX_SAMPLES = 1_000_000


def finite(
    image: npt.NDArray[np.generic], dtype: npt.DTypeLike = np.float32
) -> npt.NDArray[np.floating[Any]]:
    """Return ``image`` as floats with NaN and infinities replaced by the lowest finite value."""
    out = np.array(image, dtype=dtype)  # always a copy: the input is never changed
    bad = ~np.isfinite(out)
    if bad.any():
        out[bad] = out[~bad].min() if not bad.all() else 0.0
    return out


def percentiles(image: npt.NDArray[np.generic], *, rgb: bool = False) -> Normalisation:
    """Measure the scaling of a plane.

    Parameters
    ----------
    image : ndarray, (H, W) or (H, W, C)
        Any integer, float or bool dtype; non-finite samples are left out.
    rgb : bool
        Scale the colours together, so that hue is kept.

    Returns
    -------
    Normalisation
        One low and high per channel (1st and 99.8th percentile; for a constant channel ``high`` is
        ``low + 1``).
    """
    planes = image[..., None] if image.ndim == 2 else image
    flat = planes.reshape(-1, planes.shape[-1])
    step = max(1, len(flat) // _MAX_SAMPLES)
    sample = np.asarray(flat[::step], dtype=np.float64)
    if rgb:
        low, high = _range(sample.ravel())
        return Normalisation((low,) * flat.shape[1], (high,) * flat.shape[1])
    pairs = [_range(sample[:, c]) for c in range(flat.shape[1])]
    return Normalisation(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs))


def _range(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, [LOW, HIGH]))
    if high <= low:  # sparse or constant: fall back on the full range
        low, high = float(values.min()), float(values.max())
    return low, high if high > low else low + max(1.0, 2 * float(np.spacing(abs(low))))


def apply(image: npt.NDArray[np.generic], norm: Normalisation) -> npt.NDArray[np.float32]:
    """Scale an image; values beyond the percentiles are clipped to [-0.2, 1.5].

    Parameters
    ----------
    image : ndarray, (H, W) or (H, W, C)

    Returns
    -------
    ndarray, float32, same shape
    """
    low = np.asarray(norm.low, dtype=np.float64)
    span = np.asarray(norm.high, dtype=np.float64) - low
    if image.ndim == 2:
        low, span = low[0], span[0]
    exact: type[np.floating[Any]] = np.float64 if _is_wide(image.dtype) or not _fits(span) else np.float32
    scaled = (finite(image, exact) - low.astype(exact)) / span.astype(exact)
    clipped: npt.NDArray[np.float32] = np.clip(scaled, -0.2, 1.5).astype(np.float32, copy=False)
    return clipped


def planes(image: npt.NDArray[np.generic], norm: Normalisation | None = None) -> npt.NDArray[np.float32]:
    """Scale an image (H, W) or (H, W, C) and put its channels first, (C, H, W): what a training sample holds.

    ``norm`` None measures the scaling on the image, where (H, W, C) is colour.
    """
    scaled = apply(image, norm or percentiles(image, rgb=image.ndim == 3))
    return scaled[None] if scaled.ndim == 2 else np.moveaxis(scaled, -1, 0)


def _is_wide(dtype: np.dtype[Any]) -> bool:
    """Tell whether neighbouring values of a dtype can be one and the same in float32."""
    return dtype.itemsize > 4 or (dtype.itemsize == 4 and dtype.kind in "iu")


def _fits(span: npt.NDArray[np.float64]) -> bool:
    """Tell whether float32 can divide by ``span``."""
    return bool(np.all((span > 1e-30) & (span < 1e30)))
