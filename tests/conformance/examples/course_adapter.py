"""The adapter: the specification's names and arguments on one side, the solution's own on the other.

Ask it with `pytest --impl=tests/conformance/examples/course_adapter.py`. To adapt another solution, copy this file beside it,
change the import, and leave out what is not there: names that are missing are not claimed, and neither is what raises
NotImplementedError.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import course_solution as solution
import torch
from torch import nn


def FixedPatch(size, image_size):
    return solution.FixedPatchPrompter(SimpleNamespace(prompt_size=size, image_size=image_size))


def Padding(size, image_size):
    return solution.PadPrompter(SimpleNamespace(prompt_size=size, image_size=image_size))


def PromptedCLIP(model, tokenizer, class_names, prompt):
    sentences = [f"This is a photo of a {name.replace('_', ' ')}" for name in class_names]
    args = SimpleNamespace(prompter=prompt or nn.Identity(), prompts=sentences)
    return solution.VisualPromptCLIP(args, model, tokenizer)


def DeepPromptedCLIP(model, tokenizer, class_names, n, block, position, readout):
    args = SimpleNamespace(prompt_num=n, injection_layer=block, position=position, read_first=readout == "first")
    model = copy.deepcopy(model)  # whose transformer gets another forward below: the one given stays as it was
    transformer = model.visual.transformer
    clip = PromptedCLIP(model, tokenizer, class_names, None)
    clip.deep = solution.DeepPromptBlocks(args, transformer.resblocks, transformer.width)
    transformer.forward = lambda x, **_: clip.deep(x.transpose(0, 1)).transpose(0, 1)  # batch first outside, second inside
    return clip


def gaussian_noise(images, std, seed):
    torch.manual_seed(seed)
    return solution.AddGaussianNoise(0.0, std)(images)
