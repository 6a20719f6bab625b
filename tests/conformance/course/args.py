"""The command line's `args` as the template's classes take it."""

from __future__ import annotations

import dis
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

# What main.py and clipzs.py of the template ask for on the command line, and the course's values.
DEFAULTS: dict[str, Any] = {
    "arch": "ViT-B/32",
    "batch_size": 128,
    "class_names": None,
    "dataset": "cifar100",
    "epochs": 1000,
    "evaluate": False,
    "filename": "run",
    "gpu": None,
    "image_dir": "./save/images",
    "image_size": 224,
    "injection_layer": 0,
    "learning_rate": 40,
    "method": "padding",
    "model": "clip",
    "model_dir": "./save/models",
    "model_folder": ".",
    "momentum": 0.9,
    "optim": "sgd",
    "patience": 1000,
    "print_freq": 10,
    "prompt_num": 4,
    "prompt_size": 30,
    "prompt_template": "This is a photo of a {}",
    "prompt_type": "visual_prompt",
    "resume": None,
    "root": "./data",
    "save_freq": 50,
    "seed": 0,
    "split": "test",
    "square_size": 8,
    "test_noise": False,
    "text_prompt_template": "This is a photo of a {}",
    "trial": 1,
    "use_wandb": False,
    "visualize_predictions": False,
    "visualize_prompt": False,
    "warmup": 1000,
    "weight_decay": 0,
}
FIXED = {"device": "cpu", "num_workers": 0}  # what the machine has, whatever the solution asks for
_LOADS = {code for name, code in dis.opmap.items() if name.startswith(("LOAD_ATTR", "LOAD_METHOD"))}


class Args(Namespace):
    """Settings by name. One that neither the template nor the solution's own command line has is None, and is told of.

    `hasattr(args, name)` and `getattr(args, name, default)` find it missing, as they do on the solution's own command line.
    """

    def __getattr__(self, name: str) -> Any:
        frame = sys._getframe(1)
        is_written_out = frame.f_code.co_code[frame.f_lasti] in _LOADS  # args.name, and no call of getattr
        if name.startswith("_") or not is_written_out:
            raise AttributeError(name)
        _TELLS[self](f"args.{name} is no setting of the template, nor of parse_option: it was None")
        return None

    __hash__ = object.__hash__


_TELLS: WeakKeyDictionary[Args, Callable[[str], None]] = WeakKeyDictionary()  # beside args, whose vars() solutions write to files


def args_of(settings: Mapping[str, Any], tell: Callable[[str], None]) -> Args:
    """These settings; `tell` gets a sentence for each other one that is asked for."""
    args = Args(**settings)
    _TELLS[args] = tell
    return args


def own_settings(parse_option: Callable[[], Any]) -> dict[str, Any]:
    """What the solution's own command line has when nothing is written on it; nothing where it cannot be asked."""
    given, sys.argv = sys.argv, ["main.py"]
    try:
        return dict(vars(parse_option()))
    except (Exception, SystemExit):
        return {}
    finally:
        sys.argv = given
