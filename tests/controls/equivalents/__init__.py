"""Positive controls: a complete, correct solution, written otherwise than vp, that the specification must accept.

Loops, einsum, hooks, other precisions and memory layouts: `pytest --impl=tests.controls.equivalents` passes. What fails here is
held to vp's way, not to the specification.
"""

from tests.controls.equivalents.clip import *  # noqa: F403
from tests.controls.equivalents.graphs import *  # noqa: F403
from tests.controls.equivalents.training import *  # noqa: F403
