"""Numbers that outliers do not move: how far each case is from the usual one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MAD_TO_SIGMA = 1.4826
# With fewer cases there is no usual value.
MIN_CASES = 5


def measure_deviation(values: npt.NDArray[np.float64], floor: float) -> npt.NDArray[np.float64]:
    """Return (value - median) / spread per case; the spread is the scaled MAD, at least `floor`.

    Zero with fewer than `MIN_CASES` values.
    """
    if len(values) < MIN_CASES:
        return np.zeros(len(values))
    centre = float(np.median(values))
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(values - centre)))
    return np.asarray((values - centre) / max(spread, floor))
