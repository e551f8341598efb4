"""Breadth inference as a job: the keys of `eqr_ray.infer`. The same command again runs what is missing in out=.

python -m jobs.infer checkpoint=zoo:sudoku6 data=mine.csv depth=64 breadth=16 actors=2 out=runs/mine
"""

from __future__ import annotations

from jobs.submission import main, submit

if __name__ == "__main__":
    main("infer", lambda arguments: submit([("infer", arguments)]))
