"""Zero-shot CLIP."""

import argparse
from pprint import pprint

import torch
import torch.nn as nn
from clip import clip
from torch.utils.data import DataLoader
from torchvision.datasets import CIFAR10, CIFAR100
from tqdm import tqdm
from utils import AverageMeter, set_seed

DATASET = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def parse_option():
    parser = argparse.ArgumentParser("zero-shot")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--num_workers", type=int, default=16)
    parser.add_argument("--arch", type=str, default="ViT-B/32")
    parser.add_argument("--root", type=str, default="./data")
    parser.add_argument("--dataset", type=str, default="cifar10")
    parser.add_argument("--split", type=str, default="train")
    parser.add_argument("--prompt_template", type=str, default="This is a photo of a {}")
    parser.add_argument("--class_names", nargs="+", type=str, default=None)
    args = parser.parse_args()
    args.device = "cuda" if torch.cuda.is_available() else "cpu"
    return args


class ZeroshotCLIP(nn.Module):
    def __init__(self, args, dataset, template):
        super().__init__()
        self.device = args.device
        classnames = dataset.classes if args.class_names is None else args.class_names
        clip_model = self.load_clip_to_cpu(args)
        clip_model.to(args.device)
        if args.device == "cpu":
            clip_model = clip_model.float()
        prompts = [template.format(c.replace("_", " ")) for c in classnames]
        pprint(prompts)
        self.class_names = classnames
        self.text_features = self.precompute_text_features(clip_model, prompts, args.device)
        self.clip_model = clip_model
        self.logit_scale = self.clip_model.logit_scale.exp().detach()

    def precompute_text_features(self, clip_model, prompts, device):
        tokens = torch.cat([clip.tokenize(p) for p in prompts]).to(device)
        with torch.no_grad():
            text_features = clip_model.encode_text(tokens)
        return text_features / text_features.norm(dim=-1, keepdim=True)

    def model_inference(self, image):
        with torch.no_grad():
            image_features = self.clip_model.encode_image(image)
        image_features /= image_features.norm(dim=-1, keepdim=True)
        return self.logit_scale * image_features @ self.text_features.t()

    def load_clip_to_cpu(self, args):
        model_path = clip._download(clip._MODELS[args.arch], args.root)
        try:
            model = torch.jit.load(model_path, map_location="cpu").eval()
            state_dict = None
        except RuntimeError:
            state_dict = torch.load(model_path, map_location="cpu")
        return clip.build_model(state_dict or model.state_dict())


def main():
    args = parse_option()
    set_seed(args.seed)
    _, preprocess = clip.load(args.arch)
    dataset = DATASET[args.dataset](args.root, transform=preprocess, download=True, train=args.split == "train")
    loader = DataLoader(dataset, batch_size=args.batch_size, num_workers=args.num_workers)
    clipzs = ZeroshotCLIP(args=args, dataset=dataset, template=args.prompt_template)
    top1 = AverageMeter("Acc@1")
    for images, labels in tqdm(loader):
        logits = clipzs.model_inference(images.to(args.device))
        top1.update((logits.argmax(dim=1) == labels.to(args.device)).float().mean().item(), len(labels))
    print(f"accuracy on {args.dataset}: {top1.avg * 100}")


if __name__ == "__main__":
    main()
