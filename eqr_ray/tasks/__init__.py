"""What a puzzle is: tokens, rules, symmetries, generators, sources, stored splits and the sampler. No torch."""

from eqr_ray.tasks.registry import Puzzles, Task, task_named

__all__ = ["Puzzles", "Task", "task_named"]
