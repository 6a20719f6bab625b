"""A student's solution, as the course's template asks for it: classes that take the command line's `args`, a CLIP of its own."""

from __future__ import annotations

import torch
from torch import nn


class FixedPatchPrompter(nn.Module):
    """A patch of args.prompt_size pixels at the top left of images of args.image_size pixels."""

    def __init__(self, args):
        super().__init__()
        self.image_size, self.prompt_size = args.image_size, args.prompt_size
        self.patch = nn.Parameter(torch.randn([1, 3, args.prompt_size, args.prompt_size]))

    def forward(self, x):
        prompt = torch.zeros([1, 3, self.image_size, self.image_size], device=x.device)
        prompt[:, :, : self.prompt_size, : self.prompt_size] = self.patch
        return x + prompt


class PadPrompter(nn.Module):
    """A frame of args.prompt_size pixels."""

    def __init__(self, args):
        super().__init__()
        pad, size = args.prompt_size, args.image_size
        self.base_size = size - 2 * pad
        self.pad_up = nn.Parameter(torch.randn([1, 3, pad, size]))
        self.pad_down = nn.Parameter(torch.randn([1, 3, pad, size]))
        self.pad_left = nn.Parameter(torch.randn([1, 3, self.base_size, pad]))
        self.pad_right = nn.Parameter(torch.randn([1, 3, self.base_size, pad]))

    def forward(self, x):
        base = torch.zeros(1, 3, self.base_size, self.base_size, device=x.device)
        middle = torch.cat([self.pad_left, base, self.pad_right], dim=3)
        return x + torch.cat([self.pad_up, middle, self.pad_down], dim=2)


class VisualPromptCLIP(nn.Module):
    """args.prompter around a frozen CLIP; text features come from args.prompts, one sentence a class."""

    def __init__(self, args, clip_model, tokenizer):
        super().__init__()
        self.clip_model, self.prompter = clip_model, args.prompter
        for parameter in clip_model.parameters():
            parameter.requires_grad = False
        with torch.no_grad():
            features = clip_model.encode_text(tokenizer(args.prompts))
            self.text_features = features / features.norm(dim=-1, keepdim=True)
        self.logit_scale = clip_model.logit_scale.exp().detach()

    def forward(self, image):
        features = self.clip_model.encode_image(self.prompter(image))
        features = features / features.norm(dim=-1, keepdim=True)
        return self.logit_scale * features @ self.text_features.t()


class DeepPromptBlocks(nn.Module):
    """Learnt tokens before a block of a transformer whose tokens come batch-second: (L, B, D)."""

    def __init__(self, args, blocks, width):
        super().__init__()
        self.blocks, self.args = blocks, args
        self.deep_prompt = nn.Parameter(torch.randn(args.prompt_num, 1, width))

    def forward(self, x):
        n, place = self.args.prompt_num, {"front": 0, "after_class": 1, "back": len(x)}[self.args.position]
        for i, block in enumerate(self.blocks):
            if i == self.args.injection_layer:
                x = torch.cat([x[:place], self.deep_prompt.expand(-1, x.shape[1], -1), x[place:]])
            x = block(x.transpose(0, 1)).transpose(0, 1)
        return x if self.args.read_first else torch.cat([x[:place], x[place + n :]])


class AddGaussianNoise:
    """Noise on tensors, torch's global stream."""

    def __init__(self, mean=0.0, std=0.1):
        self.mean, self.std = mean, std

    def __call__(self, tensor):
        return tensor + torch.randn_like(tensor) * self.std + self.mean
