"""Part 2 of the template: zero-shot CLIP, visual and deep prompts, their training, and the union of both sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from tests.conformance.course.args import DEFAULTS, FIXED, Args, args_of, own_settings
from tests.conformance.course.bench import PIXELS, Bench, Features, Held, Shown, copied, numbered
from tests.conformance.course.part1 import Names
from tests.conformance.course.position import Place, place_of_prompt

TEMPLATE = "This is a photo of a {}"
CLASSES = {"visual_prompt": ("VisualPromptCLIP", "CustomCLIP"), "deep_prompt": ("DeepPromptCLIP",)}
TRAINED = ("prompt_learner", "deep_prompt")  # what the parameters of a prompt are called in the template
HARD_CODED = 768  # the width of ViT-B/32, which the template's hints suggest to write down
FIRST = 10  # classes of CIFAR-10: the offset that the template asks for


class Part2:
    """The template's classes and functions among these modules, called as the specification calls."""

    def __init__(self, modules: Mapping[str, ModuleType], bench: Bench) -> None:
        self.modules, self.bench = modules, bench
        self._settings: dict[str, dict[str, Any]] = {}
        self._place: Place | None = None
        # Kinds of prompts whose models are built without the solution's Learner: it has none, or none that can be made.
        self._without_learner = set() if self.get("learner", "Learner") is not None else {*CLASSES}

    def get(self, module: str, *names: str) -> Any:
        """The first of these names that a module has; None where it has none."""
        return next((found for name in names if (found := getattr(self.modules.get(module), name, None)) is not None), None)

    def names(self) -> Names:
        """The specification's names that can be asked."""
        found: Names = {}
        prompts = {"FixedPatch": "FixedPatchPrompter", "RandomPatch": "RandomPatchPrompter", "Padding": "PadPrompter"}
        for name, own in prompts.items():
            if self.get("vp", own) is not None:
                found[name] = self._prompt(own)
        visual, zero_shot = self.get("vpt_model", *CLASSES["visual_prompt"]), self.get("clipzs", "ZeroshotCLIP")
        if visual is not None:
            found |= {"PromptedCLIP": self.prompted_clip, "zero_shot_logits": self.zero_shot_logits}
        if zero_shot is not None or visual is not None:
            found |= {"text_features": self.text_features, "fill_template": self.fill_template}
        if self.get("dpt_model", *CLASSES["deep_prompt"]) is not None:
            found["DeepPromptedCLIP"] = self.deep_prompted_clip
        if self.get("utils", "cosine_lr") is not None:
            found["learning_rate_at"] = self.learning_rate_at
        learner = self.get("learner", "Learner")
        if hasattr(learner, "evaluate"):
            found["accuracy"] = self.accuracy
            if hasattr(learner, "run"):
                found |= {"fit": self.fit, "train_and_evaluate": self.train_and_evaluate}
        if all(self.get("cross_dataset", name) is not None for name in ("main", "Learner", "load_dataset")):
            found["union"] = self.union
        return found

    # -- what the template's code takes --------------------------------------------------------------------------------------

    def args(self, module: str = "main", **changes: Any) -> Args:
        """The template's settings, then those of the solution's own command line, then these."""
        if module not in self._settings:
            parse_option = self.get(module, "parse_option")
            self._settings[module] = {} if parse_option is None else own_settings(parse_option)
        told = {"root": str(self.bench.scratch), "model_folder": str(self.bench.scratch), "visualize_prompt": False}
        if isinstance(known := self.get("vpt_model", "PROMPT_TYPES"), dict) and DEFAULTS["method"] not in known and known:
            told["method"] = next(iter(known))
        return args_of(DEFAULTS | self._settings[module] | FIXED | told | changes, self.bench.tell)

    def _prompt(self, own: str) -> Callable[..., nn.Module]:
        def prompt(size: int, image_size: int) -> nn.Module:
            return self.modules["vp"].__dict__[own](self.args(prompt_size=size, image_size=image_size))

        return prompt

    # -- zero-shot -------------------------------------------------------------------------------------------------------------

    def text_features(self, model: nn.Module, tokenizer: Callable[..., Tensor], texts: Sequence[str]) -> Tensor:
        with self.bench.with_clip(model, tokenizer, list(texts)) as clip_model:
            zero_shot = self.get("clipzs", "ZeroshotCLIP")
            if zero_shot is None:
                return self._built("visual_prompt", template="{}").text_features
            asked = self._zero_shot(template="{}")
            if hasattr(asked, "precompute_text_features"):
                return asked.precompute_text_features(clip_model, list(texts), "cpu")
            return asked.text_features

    def fill_template(self, template: str, class_names: Sequence[str]) -> list[str]:
        """The texts that are tokenised."""
        with self.bench.with_clip(Features(), lambda texts: torch.zeros(len(texts), 4, dtype=torch.long), class_names):
            if self.get("clipzs", "ZeroshotCLIP") is not None:
                self._zero_shot(template=template)
            else:
                self._built("visual_prompt", template=template)
            return self.bench.texts[: len(class_names)]

    def zero_shot_logits(self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
        """What the prompted model makes of features: its CLIP gives these, whatever the image."""
        features = Features(image_features, text_features, logit_scale)
        with self.bench.with_clip(features, numbered, [str(i) for i in range(len(text_features))]):
            model = self._built("visual_prompt", prompt=nn.Identity(), image_size=PIXELS)
            return model(torch.zeros(len(image_features), 3, PIXELS, PIXELS))

    def _zero_shot(self, template: str = TEMPLATE) -> Any:
        args = self.args("clipzs", prompt_template=template, class_names=None)
        return self.modules["clipzs"].ZeroshotCLIP(args, self._set(), template)

    # -- prompts ---------------------------------------------------------------------------------------------------------------

    def prompted_clip(self, model, tokenizer, class_names, prompt) -> nn.Module:
        with self.bench.with_clip(model, tokenizer, class_names) as clip_model:
            if prompt is None and self.get("clipzs", "ZeroshotCLIP") is not None:
                return Inference(self._zero_shot())
            size = clip_model.visual.input_resolution
            return self._frozen("visual_prompt", prompt=prompt or nn.Identity(), image_size=size)

    def deep_prompted_clip(self, model, tokenizer, class_names, n, block, position, readout) -> nn.Module:
        """n tokens before a block; where the solution puts them, and which token it reads, is found out by watching one forward."""
        if self._place is None:
            self._place = self._find_place(model, tokenizer, class_names)
        if (position, readout) not in self._place.supported:
            raise NotImplementedError(f"{self._place}: not with position {position} and readout {readout}")
        with self.bench.with_clip(model, tokenizer, class_names):
            return self._frozen("deep_prompt", prompt_num=n, injection_layer=block)

    def _find_place(self, model, tokenizer, class_names) -> Place:
        with torch.random.fork_rng(devices=[]), self.bench.with_clip(model, tokenizer, class_names) as clip_model:
            blocks = len(clip_model.visual.transformer.resblocks)
            return place_of_prompt(
                lambda n: self._built("deep_prompt", prompt_num=n, injection_layer=min(1, blocks - 1)), clip_model
            )

    def _frozen(self, prompt_type: str, **settings: Any) -> nn.Module:
        """The model as the solution's Learner leaves it, frozen by its rule; by the template's hint where there is no Learner."""
        failed: Exception | None = None
        if prompt_type not in self._without_learner:
            try:
                with torch.random.fork_rng(devices=[]), self._learner(prompt_type, **settings) as learner:
                    return _holding(settings.get("prompt"), self._model_of(learner))
            except Exception as error:  # the class's own errors come again below
                failed = error
        model = self._built(prompt_type, **settings)
        if failed is not None:
            self.bench.tell(f"models are built without learner.py, which raised {type(failed).__name__}: {failed}")
            self._without_learner.add(prompt_type)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(part in name for part in TRAINED))
        return model

    def _built(self, prompt_type: str, *, prompt: nn.Module | None = None, template: str = TEMPLATE, **settings: Any) -> Any:
        """The solution's own class, on the set's classes."""
        module = "vpt_model" if prompt_type == "visual_prompt" else "dpt_model"
        kind = self.get(module, *CLASSES[prompt_type])
        args = self.args(prompt_type=prompt_type, text_prompt_template=template, **settings)
        with self._prompts(prompt):
            return self._fitting(_holding(prompt, kind(args, self._set(), template=template)))

    @contextmanager
    def _prompts(self, prompt: nn.Module | None) -> Iterator[None]:
        """Each of the solution's methods is this prompt, if there is one."""
        known = self.get("vpt_model", "PROMPT_TYPES")
        given = {name: (lambda args: prompt) for name in known} if prompt is not None and isinstance(known, dict) else {}
        with mock.patch.dict(known if isinstance(known, dict) else {}, given):
            yield

    def _fitting(self, model: nn.Module) -> nn.Module:
        """A deep prompt of the width of ViT-B/32 is cut to that of the model, which is smaller here; one in float16 is cast."""
        clip_model = self.bench.clip_model()
        width = getattr(getattr(getattr(clip_model, "visual", None), "transformer", None), "width", None)
        for name, parameter in list(model.named_parameters(recurse=False)):
            values = parameter.detach()
            if width is not None and values.ndim and values.shape[-1] == HARD_CODED != width:
                self.bench.tell(f"{name} has the width of ViT-B/32 written down, {HARD_CODED}: it was cut to the model's")
                values = values[..., :width].clone()
            if values.dtype == torch.float16 != clip_model.dtype:
                self.bench.tell(f"{name} is in float16, whatever the model is in: it was cast")
                values = values.to(clip_model.dtype)
            if values.shape != parameter.shape or values.dtype != parameter.dtype:
                setattr(model, name, nn.Parameter(values))
        return model

    def _set(self) -> Shown:
        """A set of the classes that are asked about, of two images."""
        size = getattr(getattr(self.bench.clip_model(), "visual", None), "input_resolution", PIXELS)
        return Shown(torch.zeros(2, 3, size, size), [0, 0], self.bench.class_names or ())

    # -- training --------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _learner(
        self, prompt_type: str, model: nn.Module | None = None, sets: Sequence[Shown] = (), prompt: Any = None, **settings: Any
    ) -> Iterator[Any]:
        """The solution's Learner, on these sets; it trains `model`, or what the solution's own class builds."""
        module = self.modules["learner"]
        args = {"epochs": 1, "prompt_type": prompt_type, "text_prompt_template": TEMPLATE, "resume": None, **settings}
        with ExitStack() as stack:
            stack.enter_context(self._prompts(prompt))
            shown = tuple(sets) or (self._set(),) * 3
            if hasattr(module, "load_dataset"):
                stack.enter_context(mock.patch.object(module, "load_dataset", return_value=shown))
            for name in CLASSES[prompt_type]:
                if (kind := getattr(module, name, None)) is not None:
                    build = self._with_fitting(kind) if model is None else mock.Mock(return_value=model)
                    stack.enter_context(mock.patch.object(module, name, build))
            yield module.Learner(self.args(**args))

    def _with_fitting(self, kind: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        return lambda *given, **named: self._fitting(kind(*given, **named))

    @staticmethod
    def _model_of(learner: Any) -> nn.Module:
        for name in ("clip", "vpt", "model"):
            if isinstance(found := getattr(learner, name, None), nn.Module):
                return found
        raise NotImplementedError("the Learner holds no model as clip or vpt")

    @contextmanager
    def _training(self, model, train, validation, test, learning_rate, momentum, warmup_steps, epochs, batch_size) -> Iterator[Any]:
        """A Learner that is to train `model` as its prompt."""
        held = Held("prompt_learner", model)
        frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        recipe = {
            "learning_rate": learning_rate,
            "momentum": momentum,
            "warmup": warmup_steps,
            "epochs": epochs,
            "batch_size": batch_size,
        }
        quiet = {"patience": epochs + 1, "print_freq": 10**9, "save_freq": 10**9, "weight_decay": 0, "optim": "sgd"}
        sets = [Shown(*one, ("some",)) for one in (train, validation, test)]
        with self.bench.with_clip(Features(), numbered, ["0"]), torch.random.fork_rng(devices=[]):
            with self._learner("visual_prompt", held, sets, **recipe, **quiet) as learner:
                for parameter in frozen:
                    parameter.requires_grad_(False)  # the template's prompts have none
                learner.best_acc1 = -1  # so that the first epoch may be the best one with no answer right
                yield learner

    def fit(self, model, train, validation, learning_rate, momentum, warmup_steps, epochs, batch_size):
        """Learner.run: the last weights are the model's, the best ones in the file that it saves."""
        recipe = (learning_rate, momentum, warmup_steps, epochs, batch_size)
        best = self._best_file(clear=True)
        with self._training(model, train, validation, validation, *recipe) as learner:
            learner.run()
        if not best.exists():
            raise NotImplementedError("the Learner saves no model_best.pth.tar")
        saved = torch.load(best)
        return copied(model.state_dict(), ""), copied(saved["state_dict"], "prompt_learner"), saved["epoch"]

    def train_and_evaluate(
        self, model, train, validation, test, tested, learning_rate, momentum, warmup_steps, epochs, batch_size
    ) -> float:
        """Learner.run, and Learner.evaluate("test") of the last weights, or of those that it saved as the best."""
        recipe = (learning_rate, momentum, warmup_steps, epochs, batch_size)
        best = self._best_file(clear=True)
        with self._training(model, train, validation, test, *recipe) as learner:
            learner.run()
            if tested == "best":
                model.load_state_dict(copied(torch.load(best)["state_dict"], "prompt_learner"))
            return float(learner.evaluate("test")) / 100

    def accuracy(self, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
        """Learner.evaluate, in percent; modes are the caller's business in the template."""
        inputs, labels = (torch.cat([one[part] for one in batches]) for part in (0, 1))
        modes = [(module, module.training) for module in model.modules()]
        with ExitStack() as stack:
            if not list(model.parameters()):
                raise NotImplementedError("a Learner needs something to train")
            every = (inputs, labels)
            learner = stack.enter_context(self._training(model, every, every, every, 0.1, 0.9, 0, 1, len(batches[0][1])))
            found = float(learner.evaluate("test")) / 100
        for module, training in modes:
            module.training = training
        return found

    def _best_file(self, *, clear: bool) -> Any:
        path = self.bench.scratch / "model_best.pth.tar"
        if clear:
            path.unlink(missing_ok=True)
        return path

    def learning_rate_at(self, step: int, total_steps: int, learning_rate: float, warmup_steps: int) -> float:
        """The rate that cosine_lr's function sets."""
        optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        self.modules["utils"].cosine_lr(optimiser, learning_rate, warmup_steps, total_steps)(step)
        return float(optimiser.param_groups[0]["lr"])

    # -- both sets -------------------------------------------------------------------------------------------------------------

    def union(self, first, second):
        """cross_dataset.main, with a Learner that looks at what it is to evaluate.

        The template adds 10 to the labels of CIFAR-100: the first set gets classes without images up to 10, which are left out.
        """
        names = first[2]
        if len(names) > FIRST:
            raise NotImplementedError(f"the template's first set has {FIRST} classes")
        fillers = [f"filler {i}" for i in range(FIRST - len(names))]
        sets = {"cifar10": Shown(*first[:2], [*names, *fillers]), "cifar100": Shown(*second)}
        listed = [*sets["cifar10"].classes, *sets["cifar100"].classes]
        table = {TEMPLATE.format(name.replace("_", " ")): number for number, name in enumerate(listed)}
        module = self.modules["cross_dataset"]
        args = self.args("cross_dataset", evaluate=True, resume="best.pt", text_prompt_template=TEMPLATE)
        with ExitStack() as stack:

            def tokens(texts: list[str]) -> Tensor:
                return torch.tensor([[table.get(text, Features.WIDTH - 1)] * 4 for text in texts], dtype=torch.long)

            stack.enter_context(self.bench.with_clip(Features(), tokens, listed))
            learner = _Looking(self.bench.clip_model())
            stack.enter_context(mock.patch.object(module, "Learner", return_value=learner))
            stack.enter_context(mock.patch.object(module, "load_dataset", lambda asked, *_: (None, None, sets[asked.dataset])))
            if hasattr(module, "parse_option"):
                stack.enter_context(mock.patch.object(module, "parse_option", return_value=args))
            try:
                module.main()
            except SystemExit:
                pass  # as the template's own does
        if not learner.seen or learner.clip.text_features is None:
            raise NotImplementedError("main evaluates nothing, or sets no text_features")
        pixels, labels = (torch.cat([one[part] for one in learner.seen]) for part in (0, 1))
        dropped = FIRST - len(names)
        kept = [int(label) if label < len(names) else int(label) - dropped if label >= FIRST else -1 for label in labels]
        rows = learner.clip.text_features.argmax(dim=1).tolist()
        found = [listed[row] if row < len(listed) else "?" for row in rows]
        return pixels, torch.tensor(kept), [name for name in found if name not in fillers]


def _holding(prompt: nn.Module | None, model: nn.Module) -> nn.Module:
    """A model whose prompt is this one, where its class took another."""
    if prompt is not None and getattr(model, "prompt_learner", prompt) is not prompt:
        model.prompt_learner = prompt
    return model


class Inference(nn.Module):
    """ZeroshotCLIP.model_inference as a module; on images one by one where it takes no batch."""

    def __init__(self, zero_shot: nn.Module) -> None:
        super().__init__()
        self.zero_shot = zero_shot

    def forward(self, images: Tensor) -> Tensor:
        try:
            return self.zero_shot.model_inference(images)
        except RuntimeError:
            return torch.stack([self.zero_shot.model_inference(image).reshape(-1) for image in images])


class _Looking:
    """A Learner that evaluates nothing, and keeps what it would have looked at."""

    def __init__(self, clip_model: nn.Module) -> None:
        self.clip = self.vpt = self.model = SimpleNamespace(
            load_clip_to_cpu=lambda *_: clip_model, clip_model=clip_model, text_features=None, eval=lambda: None
        )
        self.test_loader: Any = None
        self.val_loader: Any = None
        self.seen: list[tuple[Tensor, Tensor]] = []

    def evaluate(self, split: str = "valid") -> float:
        if self.clip.text_features is not None:
            self.seen += [(images, labels) for images, labels in self.test_loader]
        return 0.0
