"""A Run from plain settings: what `python -m vp run --dataset ...` and sweeps ask for."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

from vp.experiments.methods import ZERO_SHOT, DeepTokens, LinearProbing, Method, VisualPrompt
from vp.experiments.perform import images_of
from vp.experiments.run import Run, vary, warmed_up_on
from vp.experiments.scales import SCALES, Scale
from vp.machine.errors import VpError
from vp.models import DEFAULT_TEMPLATE, Template
from vp.prompts import VISUAL_PROMPTS
from vp.prompts.deep import Position, Readout
from vp.training import Recipe

METHODS = (*VISUAL_PROMPTS, "deep", "linear-probe", "zero-shot")
PROBE_RECIPE = Recipe("adam", learning_rate=1e-2, warmup_steps=0, epochs=50)
SETTINGS = {  # of all others: size
    "deep": ("n", "block", "position", "readout", "scrambled"),
    "linear-probe": (),
    "zero-shot": (),
}


def own_run(
    dataset: str,
    method: str,
    backbone: str = "mini-clip",
    recipe: str | Mapping[str, Any] = "",
    template: Template = DEFAULT_TEMPLATE,
    class_names: tuple[str, ...] = (),
    **settings: Any,
) -> Run:
    """The Run of a method of `METHODS` with its settings on a dataset, by default with the recipe of the backbone's scale.

    Settings: `size` in px of a visual prompt; those of `DeepTokens` of deep prompts. `recipe` is KEY=VALUE pairs
    divided by commas, or a mapping: fields of Recipe, in place of single values of the default. Its name is that of `named`.
    Raises VpError for an unknown method, setting or value.
    """
    scale = SCALES["mini" if backbone.startswith("mini") else "full"]
    made, usual = _method(method, scale, settings)
    if recipe and usual is None:
        raise VpError(f"--recipe {recipe}: {method} trains nothing, so that it takes no recipe")
    dataset = str(Path(dataset).resolve()) if Path(dataset).is_dir() else dataset  # however it was typed
    run = Run("", "own", scale.name, dataset, "test", backbone, made, template=template, class_names=class_names,
              recipe=usual and _recipe(usual, recipe))  # fmt: skip
    return named(run)


def named(run: Run) -> Run:
    """The Run under a name that says its dataset, method and sizes, and a hash of all that the number depends on.

    Runs of one name are equal: 40 bits tell 10,000 runs apart with a chance of 0.99995.
    """
    method, sizes = run.method, ""
    if isinstance(method, VisualPrompt):
        sizes = f"{method.size}px"
    elif isinstance(method, DeepTokens):
        sizes = f"block{method.block}-n{method.n}"
    words = filter(None, (Path(run.dataset).name, method_name(method), sizes))
    kind = re.sub(r"[^\w]+", "-", "-".join(words)).strip("-")
    return replace(run, name=f"{kind}-{hashlib.sha256(run.canonical().encode()).hexdigest()[:10]}")


def method_name(method: Method) -> str:
    """The word of `METHODS` that asks for it; of any other method its class."""
    if isinstance(method, VisualPrompt):
        return method.kind
    known = {DeepTokens: "deep", LinearProbing: "linear-probe", type(ZERO_SHOT): "zero-shot"}
    return known.get(type(method), type(method).__name__)


def fitted(run: Run, limit: int | None, given: str | Mapping[str, Any] = "") -> Run:
    """The run on `limit` images, its warm-up in proportion to the images there are, unless the recipe `given` has its own."""
    limited = vary(run, limit)
    kept = run.recipe is None or "warmup_steps" in given
    return named(replace(limited, recipe=run.recipe if kept else warmed_up_on(count_images(limited, "train"), run)))


def count_images(run: Run, split: str) -> int:
    """How many images of a split a Run looks at. Of sets whose size is known, such as CIFAR, none is read."""
    known = {name: scale.sizes[split] for scale in SCALES.values() for name in scale.datasets.values()}
    parts = run.dataset.split("+")
    if not all(part in known for part in parts):
        return len(images_of(run, split))
    return sum(min(known[part], run.limit or known[part]) for part in parts)


def _method(method: str, scale: Scale, settings: dict[str, Any]) -> tuple[Method, Recipe | None]:
    given = {key: value for key, value in settings.items() if value is not None}
    if method not in METHODS:
        raise VpError(f"no method {method!r}: give one of {', '.join(METHODS)}")
    allowed = SETTINGS.get(method, ("size",))
    if odd := sorted({*given} - {*allowed}):
        raise VpError(f"{method} has no setting {odd[0]!r}: it has {', '.join(allowed) or 'none'}")
    for key in ("size", "n", "block"):
        if key in given and (not isinstance(given[key], int) or given[key] < (key != "block")):
            raise VpError(f"{key} = {given[key]!r}: give a whole number of at least {int(key != 'block')}")
    if method == "zero-shot":
        return ZERO_SHOT, None
    if method == "linear-probe":
        return LinearProbing(), PROBE_RECIPE
    if method == "deep":
        for key, known in (("position", get_args(Position)), ("readout", get_args(Readout))):
            if given.get(key, known[0]) not in known:
                raise VpError(f"{key} = {given[key]!r}: give one of {', '.join(known)}")
        usual: dict[str, Any] = {"n": 1, "block": 0, "position": "back", "readout": "class"}
        return DeepTokens(**usual | given), scale.deep_recipe
    size = given.get("size", scale.padding_px if method == "padding" else scale.patch_px)
    return VisualPrompt(method, size), scale.padding_recipe if method == "padding" else scale.patch_recipe


def _recipe(usual: Recipe, changes: str | Mapping[str, Any]) -> Recipe:
    kinds = {field.name: type(getattr(usual, field.name)) for field in fields(Recipe)}
    values: dict[str, Any] = {}
    pairs = (
        [pair.partition("=") for pair in filter(None, changes.split(","))]
        if isinstance(changes, str)
        else [(key, "=", value if isinstance(value, str) else json.dumps(value)) for key, value in changes.items()]
    )
    for pair in pairs:
        key, _, text = (word.strip() for word in pair)
        if key not in kinds:
            raise VpError(f"--recipe has no field {key!r}: give KEY=VALUE of {', '.join(kinds)}")
        try:
            value = text if kinds[key] is str else json.loads(text.lower())
            if type(value) is not kinds[key] and not (kinds[key] is float and type(value) is int):
                raise ValueError(f"it is no {kinds[key].__name__}")
            values[key] = kinds[key](value)  # 1 and 1.0 are one rate, and one run
        except ValueError as error:
            raise VpError(f"--recipe {key}={text}: give a value like {getattr(usual, key)}") from error
    try:
        return replace(usual, **values)
    except ValueError as error:
        raise VpError(f"--recipe {changes}: {error}") from error
