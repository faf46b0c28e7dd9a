"""Task and Recipe: what is trained, and how; and the tasks that come with surefoot."""

from surefoot.task.recipe import Recipe
from surefoot.task.task import Outcome, Task

__all__ = ["Outcome", "Recipe", "Task"]
