"""A Run from plain settings: what `python -m vp run --dataset ...` asks for."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

from vp.experiments.methods import ZERO_SHOT, DeepTokens, LinearProbing, Method, VisualPrompt
from vp.experiments.run import Run
from vp.experiments.scales import SCALES, Scale
from vp.machine.errors import VpError
from vp.models import DEFAULT_TEMPLATE, Template
from vp.prompts import VISUAL_PROMPTS
from vp.prompts.deep import Position, Readout
from vp.training import Recipe

METHODS = (*VISUAL_PROMPTS, "deep", "linear-probe", "zero-shot")
PROBE_RECIPE = Recipe("adam", learning_rate=1e-2, warmup_steps=0, epochs=50)
SETTINGS = {"deep": ("n", "block", "position", "readout"), "linear-probe": (), "zero-shot": ()}  # of all others: size


def own_run(
    dataset: str,
    method: str,
    backbone: str = "mini-clip",
    recipe: str = "",
    template: Template = DEFAULT_TEMPLATE,
    class_names: tuple[str, ...] = (),
    **settings: Any,
) -> Run:
    """The Run of a method of `METHODS` with its settings on a dataset, by default with the recipe of the backbone's scale.

    Settings: `size` in px of a visual prompt; `n`, `block`, `position`, `readout` of deep prompts. `recipe` is KEY=VALUE pairs
    divided by commas, the fields of Recipe, in place of single values of the default. Its name says the dataset, the method and a
    hash of all settings. Raises VpError for an unknown method, setting or value.
    """
    scale = SCALES["mini" if backbone.startswith("mini") else "full"]
    made, usual = _method(method, scale, settings)
    if recipe and usual is None:
        raise VpError(f"--recipe {recipe}: {method} trains nothing, so that it takes no recipe")
    dataset = str(Path(dataset).resolve()) if Path(dataset).is_dir() else dataset  # however it was typed
    kind = re.sub(r"[^\w]+", "-", f"{Path(dataset).name}-{method}").strip("-")
    run = Run("", "own", scale.name, dataset, "test", backbone, made, template=template, class_names=class_names,
              recipe=usual and _recipe(usual, recipe))  # fmt: skip
    return replace(run, name=f"{kind}-{hashlib.sha256(run.canonical().encode()).hexdigest()[:6]}")


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


def _recipe(usual: Recipe, changes: str) -> Recipe:
    kinds = {field.name: type(getattr(usual, field.name)) for field in fields(Recipe)}
    values: dict[str, Any] = {}
    for pair in filter(None, changes.split(",")):
        key, _, text = (word.strip() for word in pair.partition("="))
        if key not in kinds:
            raise VpError(f"--recipe has no field {key!r}: give KEY=VALUE of {', '.join(kinds)}")
        try:
            value = text if kinds[key] is str else json.loads(text.lower())
            if type(value) is not kinds[key] and not (kinds[key] is float and type(value) is int):
                raise ValueError(f"it is no {kinds[key].__name__}")
            values[key] = value
        except ValueError as error:
            raise VpError(f"--recipe {key}={text}: give a value like {getattr(usual, key)}") from error
    try:
        return replace(usual, **values)
    except ValueError as error:
        raise VpError(f"--recipe {changes}: {error}") from error
