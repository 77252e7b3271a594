"""Tasks, one file each: how to prompt, what the canonical answer is, how to verify it against the reference."""

from pipeline.tasks import math, open, translation
from pipeline.tasks.base import TASKS, Task, task, task_for, task_named

__all__ = ["TASKS", "Task", "math", "open", "task", "task_for", "task_named", "translation"]
