"""CLIP with learnt tokens among those of its images."""

from pprint import pprint

import torch
import torch.nn as nn
from clip import clip


class DeepPromptCLIP(nn.Module):
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
        prompts = torch.cat([clip.tokenize(p) for p in prompts]).to(args.device)
        with torch.no_grad():
            text_features = clip_model.encode_text(prompts)
            text_features = text_features / text_features.norm(dim=-1, keepdim=True)
        self.text_features = text_features
        self.clip_model = clip_model
        self.logit_scale = self.clip_model.logit_scale.exp().detach()
        self.injection_layer = args.injection_layer
        self.deep_prompt = nn.Parameter(torch.randn(args.prompt_num, 1, 768, device=args.device, dtype=clip_model.dtype))

    def forward(self, image):
        image_features = self.custom_encode_image(image)
        image_features = image_features / image_features.norm(dim=-1, keepdim=True)
        return self.logit_scale * image_features @ self.text_features.t()

    def custom_encode_image(self, x):
        x = x.type(self.clip_model.dtype)
        image_encoder = self.clip_model.visual
        x = image_encoder.conv1(x)
        x = x.reshape(x.shape[0], x.shape[1], -1).permute(0, 2, 1)
        first = image_encoder.class_embedding.to(x.dtype) + torch.zeros(x.shape[0], 1, x.shape[-1], dtype=x.dtype)
        x = torch.cat([first, x], dim=1)
        x = x + image_encoder.positional_embedding.to(x.dtype)
        x = image_encoder.ln_pre(x)
        x = x.permute(1, 0, 2)
        for i, block in enumerate(image_encoder.transformer.resblocks):
            if i == self.injection_layer:
                x = torch.cat([x, self.deep_prompt.expand(-1, x.shape[1], -1)], dim=0)
            x = block(x)
        x = x.permute(1, 0, 2)
        x = image_encoder.ln_post(x[:, 0, :])
        if image_encoder.proj is not None:
            x = x @ image_encoder.proj
        return x

    def load_clip_to_cpu(self, args):
        model_path = clip._download(clip._MODELS[args.arch], args.root)
        try:
            model = torch.jit.load(model_path, map_location="cpu").eval()
            state_dict = None
        except RuntimeError:
            state_dict = torch.load(model_path, map_location="cpu")
        return clip.build_model(state_dict or model.state_dict())
