"""Pictures drawn from records and logs, and what they share: colours, panels, axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

BLUE, RED, GREEN, VIOLET, ORANGE = "#1b6ca8", "#d1495b", "#3c8d5a", "#7a5195", "#e08e0b"
BROWN, GREY = "#5b3a1e", "#8c8c8c"
NUMBER = FuncFormatter(lambda value, _: f"{value:g}")
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.3g} %")


def panels(
    count: int, columns: int, width: float, height: float, title: str = "", **shared: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels of this size (inches), at most `columns` in a row; `shared`: as in `subplots`."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    every: list[Axes] = figure.subplots(rows, columns, squeeze=False, **shared).ravel().tolist()
    for axes in every[:count]:
        axes.grid(alpha=0.3)
    for axes in every[count:]:
        axes.remove()
    if title:
        figure.suptitle(title)
    return figure, every[:count]


def log_ticks(axis: Axis) -> None:
    """Of a logarithmic axis: 1, 2, 5, 10, ... in plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(NUMBER)
    axis.set_minor_formatter(NullFormatter())


def bars(share: Any, low: Any, high: Any) -> npt.NDArray[np.float64]:
    """(2, N) lengths of error bars from shares (N,) to the ends of their intervals."""
    share, low, high = np.asarray(share), np.asarray(low), np.asarray(high)
    return np.asarray(np.clip([share - low, high - share], 0.0, None))
