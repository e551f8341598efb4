"""Answering: the breadth engine on one device, its records and what they say.

Why here: everything that answering needs but Ray. `engine.py` runs trajectories, `policy.py` says when one stops and
which comes next, `records.py` is what is kept, `scores.py` and `answers.py` are read from the records alone.
"""
