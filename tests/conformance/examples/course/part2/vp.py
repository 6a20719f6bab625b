"""Prompts that are added to images."""

import torch
import torch.nn as nn


class FixedPatchPrompter(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.image_size = args.image_size
        self.prompt_size = args.prompt_size
        self.patch = nn.Parameter(torch.randn([1, 3, args.prompt_size, args.prompt_size]))

    def forward(self, x):
        prompt = torch.zeros([1, 3, self.image_size, self.image_size], device=x.device)
        prompt[:, :, : self.prompt_size, : self.prompt_size] = self.patch
        return x + prompt


class PadPrompter(nn.Module):
    def __init__(self, args):
        super().__init__()
        pad_size, image_size = args.prompt_size, args.image_size
        self.pad_size, self.image_size = pad_size, image_size
        inner = image_size - 2 * pad_size
        self.pad_up = nn.Parameter(torch.randn([1, 3, pad_size, image_size]))
        self.pad_down = nn.Parameter(torch.randn([1, 3, pad_size, image_size]))
        self.pad_left = nn.Parameter(torch.randn([1, 3, inner, pad_size]))
        self.pad_right = nn.Parameter(torch.randn([1, 3, inner, pad_size]))

    def forward(self, x):
        p, size = self.pad_size, self.image_size
        prompt = torch.zeros([1, 3, size, size]).cuda()
        prompt[:, :, :p, :] += self.pad_up
        prompt[:, :, size - p :, :] += self.pad_down
        prompt[:, :, p : size - p, :p] += self.pad_left
        prompt[:, :, p : size - p, size - p :] += self.pad_right
        return x + prompt
