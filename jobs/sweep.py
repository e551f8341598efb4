"""A search as a job: the keys of `eqr_ray.sweep`. The same command again goes on with the sweep in out=.

python -m jobs.sweep space=tune/damping_noise_init.yaml data=data/sudoku6 trials=30 out=runs/search
"""

from __future__ import annotations

from jobs.submission import main, submit

if __name__ == "__main__":
    main("sweep", lambda arguments: submit([("sweep", arguments)]))
