"""Schedule, meters, checkpoints."""

import os
import shutil

import numpy as np
import torch


def set_seed(seed):
    np.random.seed(seed)
    torch.manual_seed(seed)


class AverageMeter:
    def __init__(self, name, fmt=":f"):
        self.name, self.fmt = name, fmt
        self.val = self.avg = self.sum = self.count = 0

    def update(self, val, n=1):
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count


def cosine_lr(optimizer, base_lr, warmup_length, steps):
    def adjust(step):
        if step < warmup_length:
            lr = base_lr * (step + 1) / warmup_length
        else:
            lr = 0.5 * (1 + np.cos(np.pi * (step - warmup_length) / (steps - warmup_length))) * base_lr
        for group in optimizer.param_groups:
            group["lr"] = lr
        return lr

    return adjust


def accuracy(output, target, topk=(1,)):
    with torch.no_grad():
        top = output.topk(max(topk), dim=1).indices
        hits = top == target[:, None]
        return [hits[:, :k].any(dim=1).float().mean(0, keepdim=True) * 100 for k in topk]


def save_checkpoint(state, args, is_best=False, filename="checkpoint.pth.tar"):
    savefile = os.path.join(args.model_folder, filename)
    torch.save(state, savefile)
    if is_best:
        shutil.copyfile(savefile, os.path.join(args.model_folder, "model_best.pth.tar"))


class DummyArgs:
    pass
