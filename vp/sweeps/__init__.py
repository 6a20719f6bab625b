"""Many Runs at once: a TOML file that expands to them, engines that perform them, and their results as a table.

An engine performs Tasks and tells of each as it ends. What it stores, and under which keys, is the store's business
(vp.experiments.store.obtain): engines differ in where and when a Task is performed, never in its numbers.
"""

from vp.sweeps.tasks import Engine, Outcome, Task, TellOutcome, grouped

__all__ = ["Engine", "Outcome", "Task", "TellOutcome", "grouped"]
