"""What a puzzle is: tokens, rules, symmetries and generators. No torch."""

from eqr_ray.tasks.puzzles import Puzzles
from eqr_ray.tasks.registry import task_named
from eqr_ray.tasks.task import Task

__all__ = ["Puzzles", "Task", "task_named"]
