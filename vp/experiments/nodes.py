"""What the nodes of a sweep must have in common, so that each of them makes the same results under the same keys."""

from __future__ import annotations

from collections.abc import Mapping

from vp.experiments.activations import CODE_OF_A_RUN
from vp.machine.computed_once import code_version
from vp.machine.provenance import versions


def code_here() -> dict[str, str]:
    """What results depend on of this node's software: a hash of each module's statements, and the version of each package.

    These go into the key of every result (vp.experiments.store.run_key). Plain values, to be sent to other nodes.
    """
    return {**{module: code_version((module,)) for module in CODE_OF_A_RUN}, **versions()}


def differences(expected: Mapping[str, str]) -> str:
    """How this node's code and versions differ from `expected`, the `code_here()` of another, in words; "" where they do not."""
    here = code_here()
    differing = sorted(name for name in {*expected, *here} if expected.get(name) != here.get(name))
    modules = [name for name in differing if name.startswith("vp.")]
    more = f" and {len(modules) - 3} more" if len(modules) > 3 else ""
    told = [f"other code in {', '.join(modules[:3])}{more}"] if modules else []
    told += [f"{name} {here.get(name)} in place of {expected.get(name)}" for name in differing if name not in modules]
    return "; ".join(told)
