"""A prompt of one set on the classes of both."""

from pprint import pprint

import torch
from clip import clip
from dataset import construct_dataloader, load_dataset
from learner import Learner
from main import parse_option
from utils import DummyArgs


def main():
    args = parse_option()
    assert args.resume, "give --resume"
    learn = Learner(args)
    _, preprocess = clip.load(args.arch)
    tests = []
    for name in ("cifar10", "cifar100"):
        dummy_args = DummyArgs()
        dummy_args.test_noise, dummy_args.root, dummy_args.dataset = args.test_noise, args.root, name
        tests.append(load_dataset(dummy_args, preprocess)[2])
    cifar10_test, cifar100_test = tests
    classnames = cifar10_test.classes + cifar100_test.classes

    clip_model = learn.clip.load_clip_to_cpu(args)
    clip_model.to(args.device)
    prompts = [args.text_prompt_template.format(c.replace("_", " ")) for c in classnames]
    pprint(prompts)
    with torch.no_grad():
        text_features = clip_model.encode_text(torch.cat([clip.tokenize(p) for p in prompts]).to(args.device))
    learn.clip.text_features = text_features / text_features.norm(dim=-1, keepdim=True)

    cifar100_test.targets = [target + 10 for target in cifar100_test.targets]

    learn.test_loader = construct_dataloader(args, cifar10_test)
    acc_cifar10 = learn.evaluate("test")
    learn.test_loader = construct_dataloader(args, cifar100_test)
    acc_cifar100 = learn.evaluate("test")
    count = len(cifar10_test) + len(cifar100_test)
    accuracy_all = acc_cifar10 * len(cifar10_test) / count + acc_cifar100 * len(cifar100_test) / count
    print(f"accuracy on both sets: {accuracy_all}")
    exit()


if __name__ == "__main__":
    main()
