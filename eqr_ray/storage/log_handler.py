"""Our own warnings (a damaged checkpoint, an actor that died) handed to whoever keeps a run's log.

Why here: at the base of the package, because training and inference both keep what befell a run in its folder, from
where `status` tells it. While somebody listens, Python prints nothing by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def warnings_told(tell: Callable[[str], None]) -> Iterator[None]:
    """Call `tell` with the words of every warning of this package inside the block."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: tell(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("eqr_ray")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
