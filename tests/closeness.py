"""When a result agrees with its float64 reference: the one table of tolerances."""

from __future__ import annotations

import numpy as np
import torch

#: Rounding unit of each dtype; float32 on a GPU may go through functions of a few units.
EPSILON = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


def assert_close(actual: torch.Tensor, expected: torch.Tensor, length: int = 1, factor: float = 10.0) -> None:
    """``actual`` agrees with ``expected`` (float64) as sums of ``length`` terms rounded in its dtype do.

    Largest error at most ``factor``·eps·sqrt(length) of the largest value nearby, root mean square an order below. A NaN
    or an infinity agrees only with the same at the same place.
    """
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    if not actual.dtype.is_floating_point:
        np.testing.assert_array_equal(actual.cpu().numpy(), expected.cpu().numpy().astype(actual.cpu().numpy().dtype))
        return
    found, want = actual.detach().cpu().double().numpy(), expected.detach().cpu().double().numpy()
    special = ~np.isfinite(want)
    np.testing.assert_array_equal(found[special], want[special])
    assert np.isfinite(found[~special]).all(), "a finite value was expected, a NaN or an infinity came"
    error, scale = np.abs(found[~special] - want[~special]), np.abs(want[~special])
    if error.size == 0:
        return
    bound = factor * EPSILON[actual.dtype] * np.sqrt(length)
    typical = float(np.sqrt(np.mean(scale**2)))
    limit = bound * np.maximum(scale, typical)
    smallest = 2.0**-24 if actual.dtype == torch.float16 else 0.0  # one unit among float16's denormals
    worst = int(np.argmax(error - limit))
    assert (error <= limit + smallest).all(), (
        f"largest error {error.max():.3g}; at flat position {worst} got {found[~special].reshape(-1)[worst]:.9g}, "
        f"expected {want[~special].reshape(-1)[worst]:.9g}, allowed {limit.reshape(-1)[worst]:.3g}"
    )
    root_mean_square = float(np.sqrt(np.mean(error**2)))
    assert root_mean_square <= bound * typical / 3 + smallest, (
        f"root mean square error {root_mean_square:.3g} of {typical:.3g}"
    )
