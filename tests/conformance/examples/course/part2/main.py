"""Trains a prompt, and evaluates it."""

import argparse
import os

import torch
from learner import Learner


def parse_option():
    parser = argparse.ArgumentParser("prompts")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--num_workers", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--learning_rate", type=float, default=40)
    parser.add_argument("--weight_decay", type=float, default=0)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--patience", type=int, default=1000)
    parser.add_argument("--arch", type=str, default="ViT-B/32")
    parser.add_argument("--prompt_type", type=str, default="visual_prompt")
    parser.add_argument("--prompt_num", type=int, default=4)
    parser.add_argument("--injection_layer", type=int, default=0)
    parser.add_argument("--method", type=str, default="padding")
    parser.add_argument("--prompt_size", type=int, default=30)
    parser.add_argument("--text_prompt_template", type=str, default="This is a photo of a {}")
    parser.add_argument("--visualize_prompt", action="store_true")
    parser.add_argument("--root", type=str, default="./data")
    parser.add_argument("--dataset", type=str, default="cifar100")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--test_noise", default=False, action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model_dir", type=str, default="./save/models")
    parser.add_argument("--resume", type=str, default=None)
    parser.add_argument("--evaluate", default=False, action="store_true")
    parser.add_argument("--use_wandb", default=False, action="store_true")
    args = parser.parse_args()
    args.num_workers = min(args.num_workers, os.cpu_count())
    args.device = "cuda" if torch.cuda.is_available() else "cpu"
    args.model_folder = os.path.join(args.model_dir, f"{args.method}_{args.prompt_size}_{args.dataset}_lr_{args.learning_rate}")
    os.makedirs(args.model_folder, exist_ok=True)
    return args


def main():
    args = parse_option()
    learn = Learner(args)
    if not args.evaluate:
        learn.run()
    learn.evaluate("test")


if __name__ == "__main__":
    main()
