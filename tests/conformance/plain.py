"""What a solution gives back, as plain data: nothing in it may bring its own idea of being equal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LIBRARIES = {
    "torch",
    "numpy",
    "networkx",
    "scipy",
    "builtins",
    "collections",
    "torch_geometric",
    "open_clip",
    "timm",
    "torchvision",
}
PLAIN = (Tensor, nn.Parameter, np.ndarray, float, int, bool, str, bytes, complex, type(None))
_tuple, _list, _items, _float, _int, _str = tuple.__iter__, list.__iter__, dict.items, float.__float__, int.__int__, str.__str__
_parameters, _buffers = nn.Module.named_parameters, nn.Module.named_buffers
_METHODS = frozenset(dir(Tensor))


def plain(value: Any) -> tuple[Any, str]:
    """The value as plain data, and what is wrong with it in words, "" if nothing is.

    Containers and numbers of a kind of their own, such as a named tuple, become plain ones. Tensors and arrays of a kind of their
    own, which could answer a comparison themselves, are refused.
    """
    kind = type(value)
    if kind in PLAIN or kind is torch.Size:
        return value, _own_attributes(value) if kind in (Tensor, nn.Parameter) else ""
    if issubclass(kind, nn.Module):
        return value, _impostor(value)
    if issubclass(kind, tuple | list):
        parts = [plain(one) for one in (_tuple if issubclass(kind, tuple) else _list)(value)]
        return (tuple if issubclass(kind, tuple) else list)(one for one, _ in parts), next(
            (words for _, words in parts if words), ""
        )
    if issubclass(kind, dict):
        parts = [(key, *plain(one)) for key, one in _items(value)]
        return {key: one for key, one, _ in parts}, next((words for *_, words in parts if words), "")
    if _is_of_library(kind):
        return value, ""
    if issubclass(kind, Tensor | np.ndarray):
        what = "tensor" if issubclass(kind, Tensor) else "array"
        return value, f"gave a {kind.__name__}, a kind of {what} of its own: expected a plain one"
    for cls, convert in ((float, _float), (int, _int), (str, _str)):
        if issubclass(kind, cls):
            return convert(value), ""
    return value, f"gave a {kind.__name__}, a kind of number of its own: expected a plain one" if _acts_as_number(kind) else ""


def _own_attributes(value: Any) -> str:
    """A tensor may carry attributes, but none in place of its methods."""
    if own := sorted(_METHODS & {*getattr(value, "__dict__", ())}):
        return f"gave a tensor with a `{own[0]}` of its own: expected a plain one"
    return ""


def _impostor(module: nn.Module) -> str:
    """The first parameter or buffer of a module that is no plain one."""
    for name, one in _named(module):
        _, words = plain(one)
        if words:
            return f"{words} ({name} of the module)"
    return ""


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from _parameters(module)
    yield from _buffers(module)


def _acts_as_number(kind: type) -> bool:
    return any(
        name in vars(base) for base in kind.__mro__ for name in ("__float__", "__array__", "__torch_function__", "__index__")
    )


def _is_of_library(kind: type) -> bool:
    """Is the class really where it says that it comes from?"""
    if kind.__module__.partition(".")[0] not in LIBRARIES:
        return False
    holder: Any = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        holder = getattr(holder, part, None)
    return holder is kind
