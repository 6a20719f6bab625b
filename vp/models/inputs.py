"""What a module deep inside a network is given, without computing what comes after it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class _Reached(Exception):
    """Ends a forward pass at a module, with what the module was given."""


def input_of(module: nn.Module, run: Callable[[], object]) -> Tensor:
    """The first argument that `run()` calls `module` with, where it ends; without gradients.

    Raises LookupError when `run` ends without calling it.
    """

    def stop(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        raise _Reached(arguments[0])

    handle = module.register_forward_pre_hook(stop)
    try:
        with torch.no_grad():
            run()
    except _Reached as reached:
        given: Tensor = reached.args[0]
        return given
    finally:
        handle.remove()
    raise LookupError(f"{type(module).__name__} is never called")
