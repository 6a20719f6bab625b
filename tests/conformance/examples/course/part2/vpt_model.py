"""CLIP with a prompt on its images."""

from pprint import pprint

import torch
import torch.nn as nn
from clip import clip

from vp import FixedPatchPrompter, PadPrompter

PROMPT_TYPES = {"padding": PadPrompter, "fixed_patch": FixedPatchPrompter}


class VisualPromptCLIP(nn.Module):
    def __init__(self, args, dataset, template="This is a photo of {}"):
        super().__init__()
        classnames = dataset.classes
        print(f"Loading CLIP (backbone: {args.arch})")
        clip_model = self.load_clip_to_cpu(args)
        clip_model.to(args.device)
        if args.device == "cpu":
            clip_model = clip_model.float()
        prompts = [template.format(c.replace("_", " ")) for c in classnames]
        pprint(prompts)
        with torch.no_grad():
            text_features = clip_model.encode_text(clip.tokenize(prompts).to(args.device))
            text_features = text_features / text_features.norm(dim=-1, keepdim=True)
        self.text_features = text_features
        self.clip_model = clip_model
        self.logit_scale = self.clip_model.logit_scale.exp().detach()
        assert args.method in PROMPT_TYPES, f"{args.method} is not supported"
        self.prompt_learner = PROMPT_TYPES[args.method](args)
        if args.visualize_prompt:
            self.visualize_prompt(args.method)

    def forward(self, image):
        image_features = self.clip_model.encode_image(self.prompt_learner(image))
        image_features = image_features / image_features.norm(dim=-1, keepdim=True)
        return self.logit_scale * image_features @ self.text_features.t()

    def load_clip_to_cpu(self, args):
        model_path = clip._download(clip._MODELS[args.arch], args.root)
        try:
            model = torch.jit.load(model_path, map_location="cpu").eval()
            state_dict = None
        except RuntimeError:
            state_dict = torch.load(model_path, map_location="cpu")
        return clip.build_model(state_dict or model.state_dict())

    @torch.no_grad()
    def visualize_prompt(self, method):
        import matplotlib.pyplot as plt

        picture = self.prompt_learner(torch.ones(1, 3, 224, 224))[0].clamp(0, 1)
        plt.imsave(f"prompt_{method}.png", picture.permute(1, 2, 0).numpy())
