"""Wrong prompts and wrong zero-shot heads: each breaks one sentence of sections 2.1 and 2.2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from open_clip import CLIP, SimpleTokenizer
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from tests.conformance.ours import PromptedCLIP
from tests.controls import control
from vp.prompts import FixedPatch, Padding, RandomPatch


@control("FixedPatch", "test_a_prompt_never_modifies_the_batch_it_is_given")
class ModifiesItsInput(FixedPatch):
    """Adds in place, to the caller's batch."""

    def forward(self, images: Tensor) -> Tensor:
        return images.add_(self.canvas().detach())


@control("Padding", "test_padding_leaves_the_inside_as_it_was_and_adds_each_parameter_once")
class CornersCountedTwice(Padding):
    """Sides as tall as the image, corners twice."""

    def __init__(self, size: int, image_size: int) -> None:
        super().__init__(size, image_size)
        self.left = torch.nn.Parameter(torch.randn(1, 3, image_size, size))
        self.right = torch.nn.Parameter(torch.randn(1, 3, image_size, size))

    def canvas(self) -> Tensor:
        size, image_size = self.up.shape[-2:]
        rest = image_size - size
        sides = pad(self.left, (0, rest)) + pad(self.right, (rest, 0))
        return sides + pad(self.up, (0, 0, 0, rest)) + pad(self.down, (0, 0, rest, 0))


@control("Padding", "test_a_prompt_keeps_the_shape_of_its_images")
class EnlargesTheImage(Padding):
    """Puts the frame around the image instead of onto it."""

    def forward(self, images: Tensor) -> Tensor:
        return pad(images, (1, 1, 1, 1))


@control("FixedPatch", "test_the_fixed_patch_is_added_at_the_top_left")
class OverwritesPixels(FixedPatch):
    """Replaces the pixels under the patch instead of adding to them."""

    def forward(self, images: Tensor) -> Tensor:
        size = self.patch.shape[-1]
        mask = pad(torch.ones_like(self.patch), (0, self.image_size - size, 0, self.image_size - size))
        return images * (1 - mask) + self.canvas()


@control("FixedPatch", "test_the_fixed_patch_is_added_at_the_top_left")
class PatchAtTheBottomRight(FixedPatch):
    """Pads on the wrong sides."""

    def canvas(self) -> Tensor:
        rest = self.image_size - self.patch.shape[-1]
        return pad(self.patch, (rest, 0, rest, 0))


@control("Padding", "test_gradients_reach_every_prompt_parameter")
class CutFromTheGraph(Padding):
    """Uses the values of its parameters only."""

    def canvas(self) -> Tensor:
        return super().canvas().detach()


@control("Padding", "test_gradients_reach_every_prompt_parameter")
class CopiesASide(Padding):
    """Shows `up` twice and never `down`."""

    def canvas(self) -> Tensor:
        canvas = super().canvas()
        return torch.cat([canvas[:, :, : -self.up.shape[2]], self.up], dim=2)


# -- zero-shot CLIP --------------------------------------------------------------------------------------------------------


@control("RandomPatch", "test_the_random_patch_reaches_every_place_and_differs_between_images")
class OnePlaceForTheBatch(RandomPatch):
    """Draws one place for all images of a batch."""

    def forward(self, images: Tensor) -> Tensor:
        rest = self.image_size - self.patch.shape[-1]
        top, left = torch.randint(rest + 1, (2,)).tolist()
        return images + pad(self.patch, (left, rest - left, top, rest - top))


@control("RandomPatch", "test_the_random_patch_reaches_every_place_and_differs_between_images")
class NeverAtTheEdge(RandomPatch):
    """Leaves out the last row and column of places, an index too few."""

    def forward(self, images: Tensor) -> Tensor:
        rest = self.image_size - self.patch.shape[-1]
        places = torch.randint(max(rest, 1), (len(images), 2)).tolist()
        return images + torch.cat([pad(self.patch, (left, rest - left, top, rest - top)) for top, left in places])


@control("RandomPatch", "test_the_random_patch_is_added_whole_at_some_place_of_each_image")
class CutAtTheEdge(RandomPatch):
    """Lets the patch stick out of the image, and rolls what does to the other side."""

    def forward(self, images: Tensor) -> Tensor:
        rest = self.image_size - self.patch.shape[-1]
        whole = pad(self.patch, (0, rest, 0, rest))
        places = torch.randint(self.image_size, (len(images), 2)).tolist()
        return images + torch.cat([whole.roll((top, left), (2, 3)) for top, left in places])


@control("zero_shot_logits", "test_logits_are_the_scaled_cosine")
def logits_without_exponential(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """logit_scale x cosine."""
    return logit_scale * normalize(images, dim=-1) @ normalize(texts, dim=-1).T


@control("zero_shot_logits", "test_logits_are_the_scaled_cosine")
def logits_scaled_twice(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """exp(logit_scale)^2 x cosine."""
    return (2 * logit_scale).exp() * normalize(images, dim=-1) @ normalize(texts, dim=-1).T


@control("zero_shot_logits", "test_logits_are_the_scaled_cosine")
def logits_of_unnormalised_images(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Image features of any length."""
    return logit_scale.exp() * images @ normalize(texts, dim=-1).T


@control("zero_shot_logits", "test_logits_are_the_scaled_cosine")
def logits_of_unnormalised_texts(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Text features of any length."""
    return logit_scale.exp() * normalize(images, dim=-1) @ texts.T


@control("zero_shot_logits", "test_logits_are_the_scaled_cosine")
def logits_of_texts_normalised_over_classes(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Normalised over the class axis."""
    return logit_scale.exp() * normalize(images, dim=-1) @ normalize(texts, dim=0).T


@control("zero_shot_logits", "test_logits_are_the_scaled_cosine")
def logits_after_softmax(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Probabilities in place of logits, of which the cross-entropy takes the softmax again."""
    cosine = normalize(images, dim=-1) @ normalize(texts, dim=-1).T
    return (logit_scale.exp() * cosine).softmax(1)


@control("text_features", "test_text_features_are_open_clips_at_unit_length")
def unnormalised_text_features(model: CLIP, tokenizer: SimpleTokenizer, texts: Sequence[str]) -> Tensor:
    """Features of any length."""
    with torch.no_grad():
        return model.encode_text(tokenizer(list(texts)))


@control("text_features", "test_text_features_are_open_clips_at_unit_length")
def text_features_normalised_over_classes(model: CLIP, tokenizer: SimpleTokenizer, texts: Sequence[str]) -> Tensor:
    """Normalised over the class axis."""
    return normalize(unnormalised_text_features(model, tokenizer, texts), dim=0)


@control("fill_template", "test_underscores_in_a_class_name_are_read_as_spaces")
def texts_with_a_full_stop(template: str, class_names: Sequence[str]) -> list[str]:
    """Ends each sentence with a full stop."""
    return [f"{template.format(name.replace('_', ' '))}." for name in class_names]


@control("fill_template", "test_underscores_in_a_class_name_are_read_as_spaces")
def texts_with_underscores(template: str, class_names: Sequence[str]) -> list[str]:
    """Keeps the underscores of class names."""
    return [template.format(name) for name in class_names]


@control("fill_template", "test_underscores_in_a_class_name_are_read_as_spaces")
def texts_of_one_template(template: str, class_names: Sequence[str]) -> list[str]:
    """Has a template of its own, whichever is given."""
    return [f"This is a photo of a {name.replace('_', ' ')}" for name in class_names]


class _Plain(nn.Module):
    """A correct PromptedCLIP, written out so that each control can change it in one place."""

    def __init__(self, model: CLIP, tokenizer: SimpleTokenizer, class_names: Sequence[str], prompt: nn.Module | None) -> None:
        super().__init__()
        self.model, self.prompt = model.requires_grad_(False), nn.Identity() if prompt is None else prompt
        with torch.no_grad():
            self.texts = normalize(model.encode_text(tokenizer([self.text_of(name) for name in class_names])), dim=-1)

    def text_of(self, name: str) -> str:
        return f"This is a photo of a {name.replace('_', ' ')}"

    def prompted(self, images: Tensor) -> Tensor:
        return self.prompt(images)

    def encode(self, images: Tensor) -> Tensor:
        return normalize(self.model.encode_image(images), dim=-1)

    def scale(self) -> Tensor:
        return self.model.logit_scale.exp()

    def forward(self, images: Tensor) -> Tensor:
        return self.scale() * self.encode(self.prompted(images)) @ self.texts.T


@control("PromptedCLIP", "test_zero_shot_clip_is_the_open_clip_model_itself")
class AsksForAnImage(_Plain):
    """Asks for "an image of a" where the template says "a photo of a"."""

    def text_of(self, name: str) -> str:
        return f"This is an image of a {name.replace('_', ' ')}"


@control("PromptedCLIP", "test_zero_shot_clip_is_the_open_clip_model_itself")
class AsksWithUnderscores(_Plain):
    """Keeps the underscores of class names."""

    def text_of(self, name: str) -> str:
        return f"This is a photo of a {name}"


@control("PromptedCLIP", "test_zero_shot_clip_is_the_open_clip_model_itself")
class ForgetsTheScale(_Plain):
    """Gives cosines in place of logits."""

    def scale(self) -> Tensor:
        return torch.ones(())


@control("PromptedCLIP", "test_zero_shot_clip_is_the_open_clip_model_itself")
class NormalisesPixelsAgain(_Plain):
    """Takes images that are normalised for pixels, and normalises them a second time."""

    def encode(self, images: Tensor) -> Tensor:
        mean, std = (images.new_tensor(values)[:, None, None] for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
        return super().encode((images - mean) / std)


@control("PromptedCLIP", "test_an_images_logits_do_not_depend_on_the_other_images")
class CentresTheBatch(_Plain):
    """Takes the mean of the batch off the features."""

    def encode(self, images: Tensor) -> Tensor:
        features = super().encode(images)
        return features - features.mean(0)


@control("PromptedCLIP", "test_nothing_but_the_prompt_gets_a_gradient")
class TrainsTheClipToo(_Plain):
    """Does not freeze the backbone."""

    def __init__(self, model: CLIP, tokenizer: SimpleTokenizer, class_names: Sequence[str], prompt: nn.Module | None) -> None:
        super().__init__(model, tokenizer, class_names, prompt)
        model.requires_grad_(True)


@control("PromptedCLIP", "test_a_prompted_clip_is_open_clip_on_prompted_images")
class IgnoresItsPrompt(_Plain):
    """Classifies the images as they are."""

    def prompted(self, images: Tensor) -> Tensor:
        return images


@control("PromptedCLIP", "test_a_prompted_clip_is_open_clip_on_prompted_images")
class PromptsTwice(_Plain):
    """Prompts the images that are prompted already."""

    def prompted(self, images: Tensor) -> Tensor:
        return self.prompt(self.prompt(images))


@control("PromptedCLIP", "test_nothing_but_the_prompt_gets_a_gradient")
class DetachesThePrompt(_Plain):
    """Cuts the prompted images from the graph."""

    def prompted(self, images: Tensor) -> Tensor:
        return self.prompt(images).detach()


@control("Padding", "test_padding_leaves_the_inside_as_it_was_and_adds_each_parameter_once")
class PaddingOfTrainingOnly(Padding):
    """Shows its frame in training mode only: evaluated, it is no prompt at all."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) if self.training else images.clone()


@control("FixedPatch", "test_the_fixed_patch_is_added_at_the_top_left")
class PatchOfTrainingOnly(FixedPatch):
    """Shows its patch in training mode only."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) if self.training else images.clone()


@control("RandomPatch", "test_the_random_patch_reaches_every_place_and_differs_between_images")
class SamePlacesInEveryBatch(RandomPatch):
    """Seeds torch before it draws: every batch has its patches where the first one had them."""

    def forward(self, images: Tensor) -> Tensor:
        torch.manual_seed(0)
        return super().forward(images)


class _TrainingOnly(nn.Module):
    """A prompt, or in evaluation mode the images as they are."""

    def __init__(self, prompt: nn.Module) -> None:
        super().__init__()
        self.prompt = prompt

    def forward(self, images: Tensor) -> Tensor:
        prompted: Tensor = self.prompt(images) if self.training else images
        return prompted


@control("PromptedCLIP", "test_a_prompted_clip_is_open_clip_on_prompted_images")
def prompt_of_training_only(
    model: CLIP, tokenizer: SimpleTokenizer, class_names: Sequence[str], prompt: nn.Module | None
) -> nn.Module:
    """Leaves its prompt out when it is evaluated."""
    return PromptedCLIP(model, tokenizer, class_names, prompt and _TrainingOnly(prompt))


@control("text_features", "test_text_features_are_open_clips_at_unit_length")
def text_features_that_leave_training_mode_behind(model: CLIP, tokenizer: SimpleTokenizer, texts: Sequence[str]) -> Tensor:
    """Puts the model that it is given into training mode."""
    return normalize(unnormalised_text_features(model.train(), tokenizer, texts), dim=-1)


@control("zero_shot_logits", "test_logits_are_the_scaled_cosine")
def logits_without_gradient(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Right numbers that no prompt can learn by."""
    return (logit_scale.exp() * normalize(images, dim=-1) @ normalize(texts, dim=-1).T).detach()


@control("fill_template", "test_underscores_in_a_class_name_are_read_as_spaces")
def texts_in_lower_case(template: str, class_names: Sequence[str]) -> list[str]:
    """Writes class names in lower case."""
    return [template.format(name.replace("_", " ").lower()) for name in class_names]
