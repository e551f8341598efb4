"""Training as a job: the keys of `eqr_ray.train`. The same command again goes on with the run in out=.

python -m jobs.train data=data/sudoku6 model=eqr_small workers=2 out=runs/sudoku6
"""

from __future__ import annotations

from jobs.submission import main, submit

if __name__ == "__main__":
    main("train", lambda arguments: submit([("train", arguments)]))
