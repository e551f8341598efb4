"""What a puzzle is: tokens, rules, symmetries and generators. No torch."""

from eqr_ray.tasks.registry import Puzzles, Task, task_named

__all__ = ["Puzzles", "Task", "task_named"]
