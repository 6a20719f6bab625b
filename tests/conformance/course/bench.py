"""What a statement gives, as the template's code finds it: a CLIP model, a tokenizer, class names, a network, images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.conformance.course.clip import OpenAICLIP

PIXELS = 8  # of images where nobody looks at them


class Bench:
    """Set by each call; asked by the stand-ins for `clip`, CIFAR and torchvision's networks while it runs."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch  # where a solution writes checkpoints and pictures
        self.notes: dict[str, None] = {}  # what a teaching assistant should know, each once
        self.class_names: Sequence[str] | None = None
        self.texts: list[str] = []
        self.network: nn.Module | None = None
        self._model: nn.Module | None = None
        self._tokens: Callable[[list[str]], Tensor] | None = None

    def tell(self, note: str) -> None:
        self.notes.setdefault(note)

    def clip_model(self) -> nn.Module:
        if self._model is None:
            raise OSError("no weights are loaded while this is asked")
        return self._model

    def tokens_of(self, texts: list[str]) -> Tensor:
        if self._tokens is None:
            raise OSError("no tokenizer is there while this is asked")
        return self._tokens(texts)

    @contextmanager
    def with_clip(self, model: nn.Module, tokenizer: Callable[..., Tensor], class_names: Sequence[str]) -> Iterator[nn.Module]:
        """The model as OpenAI's class has it; and its tokenizer, and the classes of the set that is asked about."""
        before = self._model, self._tokens, self.class_names, self.texts
        stand_in = model if isinstance(model, Features) else OpenAICLIP(model)
        self._model, self._tokens, self.class_names, self.texts = stand_in, tokenizer, class_names, []
        try:
            yield stand_in
        finally:
            self._model, self._tokens, self.class_names, self.texts = before

    @contextmanager
    def with_network(self, network: nn.Module) -> Iterator[None]:
        before, self.network = self.network, network
        try:
            yield
        finally:
            self.network = before

    def torchvision_network(self, *named: Any, **_: Any) -> nn.Module:
        """In place of torchvision.models.resnet18(pretrained=True)."""
        if self.network is None:
            raise OSError("no weights are loaded while this is asked")
        return self.network

    def classes(self, count: int) -> list[str]:
        """The classes of a CIFAR set: those of the statement, or as many as the set has."""
        return list(self.class_names) if self.class_names is not None else [f"class {i}" for i in range(count)]


class Features(nn.Module):
    """A CLIP whose features are given: those of images whatever the image, those of texts by the number that a text ends in.

    Where `images` are None it gives the images themselves, and where `texts` are None the number's own row of the identity.
    """

    WIDTH = 256

    def __init__(self, images: Tensor | None = None, texts: Tensor | None = None, logit_scale: Tensor | None = None) -> None:
        super().__init__()
        self.images, self.texts = images, texts
        self.logit_scale = nn.Parameter(torch.zeros(()) if logit_scale is None else logit_scale.detach().clone())
        self.dtype = torch.float32
        self.eval()

    def encode_image(self, image: Tensor) -> Tensor:
        return image.clone() if self.images is None else self.images.clone()

    def encode_text(self, tokens: Tensor) -> Tensor:
        texts = torch.eye(self.WIDTH) if self.texts is None else self.texts
        return texts[tokens.reshape(len(tokens), -1)[:, 0]].clone()


def numbered(texts: list[str]) -> Tensor:
    """A tokenizer for Features: the number that each text ends in."""
    return torch.tensor([[int(text.split()[-1])] * 4 for text in texts], dtype=torch.long)


class Shown:
    """A set of images and labels as a solution takes it: by index, with `classes`, `targets` and `data`."""

    def __init__(self, inputs: Tensor, labels: Any, classes: Sequence[str]) -> None:
        self.inputs, self.classes = inputs, list(classes)
        self.targets: Any = [int(label) for label in labels]
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        self.transform = self.target_transform = None

    @property
    def data(self) -> Any:
        return self.inputs.movedim(1, -1).numpy() if self.inputs.ndim == 4 else self.inputs.numpy()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        target: Any = self.targets[index]
        transform: Any = self.target_transform
        return self.inputs[index], int(target if transform is None else transform(target))


class Batches(list[tuple[Tensor, Tensor]]):
    """Batches as a DataLoader gives them, of a set that has a length."""

    def __init__(self, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__(batches)
        inputs, labels = (torch.cat([one[part] for one in batches]) for part in (0, 1))
        self.dataset, self.batch_size = Shown(inputs, labels, ()), len(batches[0][1])


class Held(nn.Module):
    """A model under the name that the template trains: `prompt_learner` in part 2, `fc` in part 1.

    It answers `always_right` rows (label 0) itself, so that a loop whose best accuracy starts from 0 has a best epoch.
    """

    RIGHT = 1e6

    def __init__(self, name: str, model: nn.Module) -> None:
        super().__init__()
        self.add_module(name, model)
        self._name = name
        self.logit_scale = torch.zeros(())  # which the template's loop of 2022 clamps

    @classmethod
    def always_right(cls, like: Tensor) -> Tensor:
        return torch.full_like(like[:1], cls.RIGHT)

    def forward(self, inputs: Tensor) -> Tensor:
        model, known = getattr(self, self._name), (inputs == self.RIGHT).flatten(1).all(dim=1)
        if not known.any():
            return model(inputs)
        asked = model(inputs[~known]) if not known.all() else inputs.new_zeros(0, 1)
        logits = asked.new_zeros(len(inputs), asked.shape[1])
        logits[~known] = asked
        logits[known, 0] = 1
        return logits


def copied(weights: Any, prefix: str) -> dict[str, Tensor]:
    """Weights by the names that they have without a prefix."""
    return {name.removeprefix(f"{prefix}."): copy.deepcopy(one.detach()) for name, one in weights.items()}
