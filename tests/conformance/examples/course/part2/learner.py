"""Training of prompts."""

from pprint import pprint

import torch
import torch.nn as nn
import wandb
from clip import clip
from dataset import construct_dataloader, load_dataset
from dpt_model import DeepPromptCLIP
from tqdm import tqdm
from utils import AverageMeter, accuracy, cosine_lr, save_checkpoint, set_seed
from vpt_model import VisualPromptCLIP


class Learner:
    def __init__(self, args):
        self.args = args
        self.device = args.device
        self.best_acc1 = 0
        _, preprocess = clip.load(args.arch)
        self.train_dataset, self.val_dataset, self.test_dataset = load_dataset(args, preprocess)
        self.train_loader = construct_dataloader(args, self.train_dataset)
        self.val_loader = construct_dataloader(args, self.val_dataset)
        self.test_loader = construct_dataloader(args, self.test_dataset)
        if args.prompt_type == "visual_prompt":
            self.clip = VisualPromptCLIP(args, self.test_dataset, template=args.text_prompt_template)
        else:
            self.clip = DeepPromptCLIP(args, self.test_dataset, template=args.text_prompt_template)
        if args.resume:
            self.clip.prompt_learner.load_state_dict(torch.load(args.resume)["state_dict"])
        for name, param in self.clip.named_parameters():
            param.requires_grad = "prompt_learner" in name or "deep_prompt" in name
        pprint({name for name, param in self.clip.named_parameters() if param.requires_grad})
        self.clip.to(self.device)
        self.optimizer = torch.optim.SGD(
            filter(lambda p: p.requires_grad, self.clip.parameters()),
            lr=args.learning_rate,
            momentum=args.momentum,
            weight_decay=args.weight_decay,
        )
        self.criterion = nn.CrossEntropyLoss()
        total_steps = len(self.train_loader) * args.epochs
        self.scheduler = cosine_lr(self.optimizer, args.learning_rate, args.warmup, total_steps)
        if args.seed is not None:
            set_seed(args.seed)
        if args.use_wandb:
            wandb.init(project="prompts", config=vars(args))

    def run(self):
        without_improvement = 0
        for epoch in range(self.args.epochs):
            self.train_one_epoch(epoch)
            acc1 = self.evaluate()
            is_best = acc1 > self.best_acc1
            self.best_acc1 = max(acc1, self.best_acc1)
            visual = self.args.prompt_type == "visual_prompt"
            state = {
                "epoch": epoch + 1,
                "state_dict": (self.clip.prompt_learner if visual else self.clip).state_dict(),
                "best_acc1": self.best_acc1,
                "optimizer": self.optimizer.state_dict(),
            }
            save_checkpoint(state, self.args, is_best=is_best)
            without_improvement = 0 if is_best else without_improvement + 1
            if without_improvement >= self.args.patience:
                break

    def train_one_epoch(self, epoch):
        losses, top1 = AverageMeter("Loss", ":.4e"), AverageMeter("Acc@1", ":6.2f")
        self.clip.train()
        for i, (images, target) in enumerate(tqdm(self.train_loader)):
            self.scheduler(len(self.train_loader) * epoch + i)
            self.optimizer.zero_grad()
            images, target = images.to(self.device), target.to(self.device)
            output = self.clip(images)
            loss = self.criterion(output, target)
            loss.backward()
            self.optimizer.step()
            losses.update(loss.item(), images.size(0))
            top1.update(accuracy(output, target, topk=(1,))[0].item(), images.size(0))
        return losses.avg, top1.avg

    def evaluate(self, split="valid"):
        top1 = AverageMeter("Acc@1", ":6.2f")
        self.clip.eval()
        with torch.no_grad():
            for images, target in tqdm(self.val_loader if split == "valid" else self.test_loader):
                images, target = images.to(self.device), target.to(self.device)
                output = self.clip(images)
                top1.update(accuracy(output, target, topk=(1,))[0].item(), images.size(0))
        print(f" * Prompt Acc@1 {top1.avg:.3f}")
        return top1.avg
