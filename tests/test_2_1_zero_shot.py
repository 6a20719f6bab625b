"""Report 2.1: zero-shot CLIP (table 1), and prompting it for other questions (figures 5 and 6)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from tests.controls import prompts as controls
from tests.strategies import batches, pixels, seeds, tensor
from vp.data import Preprocess
from vp.evaluation import contrast_test, wilson_interval
from vp.expectations import positive_verdict
from vp.experiments import Run, runs
from vp.models import DEFAULT_TEMPLATE, FrozenCLIP, cosine_logits, fill_template, label_probabilities, load_clip
from vp.models.mini_clip import mini_tokenizer, new_mini_clip
from vp.performing import images_of
from vp.prompts import PromptedCLIP
from vp.runtime import NotAvailable, VpError, pick_device
from vp.writeup import prediction_bars, to_svg


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    """A miniature CLIP with random weights: what follows holds for any weights."""
    return FrozenCLIP("random", new_mini_clip(1), mini_tokenizer(), Preprocess(40))


def assert_scaled_cosine(logits_of) -> None:
    images, texts, logit_scale = tensor(1, 4, 8), tensor(2, 3, 8), 1.5
    for b in range(4):
        for k in range(3):
            cosine = (images[b] @ texts[k]) / (images[b].norm() * texts[k].norm())
            torch.testing.assert_close(logits_of(images, texts, logit_scale)[b, k], 2.718281828459045**logit_scale * cosine)


@pytest.mark.claim("logits-are-scaled-cosines")
def test_logits_are_the_scaled_cosine() -> None:
    """Logits are exp(logit_scale) times the cosine of image and text features."""
    assert_scaled_cosine(
        lambda images, texts, scale: cosine_logits(normalize(images, dim=-1), normalize(texts, dim=-1), torch.tensor(scale).exp())
    )


@pytest.mark.parametrize(
    "wrong",
    [
        controls.logits_without_exponential,
        controls.logits_scaled_twice,
        controls.logits_of_unnormalised_texts,
        controls.logits_of_texts_normalised_over_classes,
        controls.logits_after_softmax,
    ],
    ids=lambda control: control.__name__,
)
def test_wrong_logits_are_rejected(wrong) -> None:
    """Each wrong zero-shot head fails the property of the scaled cosine."""
    with pytest.raises(AssertionError):
        assert_scaled_cosine(wrong)


@pytest.mark.claim("zero-shot-is-open-clip")
@given(seed=seeds, batch=batches)
def test_zero_shot_clip_is_the_open_clip_model_itself(clip: FrozenCLIP, seed: int, batch: int) -> None:
    """Without a prompt the classifier gives what open_clip's own forward gives."""
    names = ["house", "red leaf", "moon"]
    images = clip.preprocess(pixels(seed, batch, 3, 11, 11))
    with torch.no_grad():
        image_features, text_features, scale = clip.model(images, clip.tokenizer([f"This is a photo of a {n}" for n in names]))
        torch.testing.assert_close(PromptedCLIP(clip, names)(images), scale * image_features @ text_features.T)


@given(seed=seeds, batch=st.integers(2, 6))
def test_an_images_logits_do_not_depend_on_the_other_images(clip: FrozenCLIP, seed: int, batch: int) -> None:
    """An image's logits do not depend on the other images or on its place in the batch."""
    model = PromptedCLIP(clip, ["house", "car"])
    images = clip.preprocess(pixels(seed, batch, 3, 11, 11))
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        together, shuffled = model(images), model(images[order])
        alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together[order], shuffled, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.claim("features-have-unit-length")
def test_features_have_unit_length(clip: FrozenCLIP) -> None:
    """Image and text features are L2-normalised."""
    with torch.no_grad():
        images = clip.encode_image(clip.preprocess(pixels(0, 3, 3, 11, 11)))
    for features in (images, clip.encode_text(["a house", "a car"])):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(features)))


def test_a_frozen_clip_stays_frozen(clip: FrozenCLIP) -> None:
    """No parameter of the backbone requires a gradient, and train() does not put it in training mode."""
    assert not any(p.requires_grad for p in clip.parameters())
    assert not any(module.training for module in clip.train().modules())


def test_the_fingerprint_sees_every_weight(clip: FrozenCLIP) -> None:
    """Two backbones that differ in one weight have different fingerprints."""
    other = FrozenCLIP("random", new_mini_clip(1), mini_tokenizer(), Preprocess(40))
    assert other.fingerprint == clip.fingerprint
    other.model.visual.proj.data[0, 0] += 1e-3
    assert other.fingerprint != clip.fingerprint


@pytest.mark.claim("template-and-class-names")
def test_underscores_in_a_class_name_are_read_as_spaces() -> None:
    """The template is "This is a photo of a {}" without full stop, and an underscore becomes a space."""
    assert fill_template(DEFAULT_TEMPLATE, ["aquarium_fish", "apple"]) == [
        "This is a photo of a aquarium fish",
        "This is a photo of a apple",
    ]


@pytest.mark.parametrize("template", ["a photo", "{} or {}", "a {name}", "a {0}", "{", ""])
def test_a_template_needs_its_place_for_the_label(template: str) -> None:
    """A template without {} is refused with an example of a right one."""
    with pytest.raises(VpError, match=r"must contain \{\} exactly once"):
        fill_template(template, ["red"])


@pytest.mark.parametrize(
    ("labels", "complaint"), [([], "at least one"), (["red", " "], "non-empty"), (["red", "red"], "must differ")]
)
def test_labels_are_distinct_names(labels: list[str], complaint: str) -> None:
    """No label, an empty one or one given twice is refused."""
    with pytest.raises(VpError, match=complaint):
        fill_template("a {}", labels)


def test_a_text_longer_than_the_model_reads_is_refused(clip: FrozenCLIP) -> None:
    """A text is never cut silently."""
    with pytest.raises(VpError, match="tokens, but random reads 18"):
        clip.encode_text(["a photo of " + "very " * 20 + "red house"])


@pytest.mark.parametrize(
    ("name", "advice"), [("no-clip", "Give mini-clip or MODEL/PRETRAINED"), ("ViT-B-32/openai", "ViT-B-32-quickgelu/openai")]
)
def test_an_unknown_or_mismatched_backbone_is_refused(name: str, advice: str) -> None:
    """An unknown backbone, or OpenAI's weights without QuickGELU, is an error that names the right one."""
    with pytest.raises(VpError, match=advice):
        load_clip(name)


@given(seed=seeds)
def test_label_probabilities_are_a_softmax_over_the_labels(clip: FrozenCLIP, seed: int) -> None:
    """Probabilities of the labels of an image are positive, sum to one and follow the logits."""
    images = pixels(seed, 2, 3, 13, 17)
    probabilities = label_probabilities(clip, images, "a {} thing", ["red", "green", "blue"])
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))
    with torch.no_grad():
        features = clip.class_features(["red", "green", "blue"], "a {} thing")
        logits = cosine_logits(clip.encode_image(clip.preprocess(images)), features, clip.scale)
    torch.testing.assert_close(probabilities, logits.exp() / logits.exp().sum(1, keepdim=True), atol=1e-5, rtol=1e-4)


# -- table 1 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [pytest.param(run, marks=pytest.mark.reproduces(run)) for run, it in runs("mini").items() if it.table == "table_1"]
)
def test_table_1_zero_shot_accuracy(name: str, results, judge) -> None:
    """Zero-shot CLIP reaches the accuracy of table 1."""
    judge.cell(results(name))


# -- figures 5 and 6 -------------------------------------------------------------------------------------------------------

FROM_NATURE = {"bird", "cat", "deer", "dog", "frog", "horse", "tree", "fish", "mushroom", "moon", "flower"}
PRIMARY, COLOUR_TEMPLATE = ("red", "green", "blue"), "This is an image mostly coloured {}"
ORIGINS, ORIGIN_TEMPLATE = ("human-made", "from-nature"), "This image displays an object that is {}"


@pytest.fixture
def backbone(find, pytestconfig: pytest.Config) -> FrozenCLIP:
    try:
        return load_clip(find("zero-shot-10-test").backbone, pick_device(pytestconfig.getoption("--device")))
    except NotAvailable as missing:
        pytest.skip(f"NOT RUN: {missing}")


def shown_by(run: Run):
    try:
        return images_of(run, run.split)
    except NotAvailable as missing:
        pytest.skip(f"NOT RUN: {missing}")


def draw_eight(images, backbone: FrozenCLIP, template: str, labels, figure: str, caption: str, record) -> None:
    chosen = images.take(torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:8])
    probabilities = label_probabilities(backbone, chosen.pixels, template, labels)
    titles = [chosen.class_names[label] for label in chosen.labels]
    record(
        "figure",
        id=figure,
        caption=caption,
        svg=to_svg(prediction_bars(list(chosen.pixels), probabilities, labels, titles), figure),
    )


def colours_of(images, backbone: FrozenCLIP):
    """Probabilities of the primary colours (N, 3), is the right one the most probable, and two masks: images where one
    colour leads the mean pixel by over 0.25, and images where it leads by under 0.05."""
    ranked = (images.pixels.float().mean((2, 3)) / 255).sort(1, descending=True)
    margin = ranked.values[:, 0] - ranked.values[:, 1]
    probabilities = label_probabilities(backbone, images.pixels, COLOUR_TEMPLATE, PRIMARY)
    return probabilities, probabilities.argmax(1) == ranked.indices[:, 0], margin > 0.25, margin < 0.05


def origins_of(images, backbone: FrozenCLIP):
    """Probabilities of human-made and from-nature (N, 2), and which images are from nature."""
    probabilities = label_probabilities(backbone, images.pixels, ORIGIN_TEMPLATE, ORIGINS)
    return probabilities, torch.tensor([name in FROM_NATURE for name in images.class_names])[images.labels]


def share(hits) -> tuple[str, float, float]:
    """A share of images in words, and its 95% interval."""
    low, high = wilson_interval(int(hits.sum()), len(hits))
    return (
        f"{int(hits.sum())} of {len(hits)} images: {100 * hits.float().mean():.1f}% ({100 * low:.1f} to {100 * high:.1f})",
        low,
        high,
    )


@pytest.mark.claim("primary-colour", "primary-colour-confidence", "no-primary-colour")
@pytest.mark.reproduces
def test_figure_5_clip_tells_the_primary_colour(find, backbone: FrozenCLIP, record, judge) -> None:
    """For images with a distinct primary colour the model identifies it, with high confidence; for others it spreads out."""
    images = shown_by(find("zero-shot-100-test"))
    probabilities, correct, distinct, indistinct = colours_of(images, backbone)
    draw_eight(
        images,
        backbone,
        COLOUR_TEMPLATE,
        PRIMARY,
        "figure-5",
        f"“{COLOUR_TEMPLATE}”: eight random images, the most probable colour in orange. Where one primary colour dominates the "
        "pixels, its bar should be the long one; elsewhere the bars should be more even.",
        record,
    )
    words, low, high = share(correct[distinct])
    judge.conclude(
        f"{words} whose mean colour leads by over 0.25; a high degree means above 80%, chance is 33.3%",
        positive_verdict((low - 0.8, high - 0.8)),
        claim="primary-colour",
    )
    words, low, high = share(probabilities[distinct].amax(1) > 0.5)
    judge.conclude(
        f"the most probable colour outweighs both others together in {words} with a distinct one; high means in above half",
        positive_verdict((low - 0.5, high - 0.5)),
        claim="primary-colour-confidence",
    )
    entropy = -(probabilities * probabilities.clamp(min=1e-12).log()).sum(1)
    test = contrast_test(entropy[indistinct], -entropy[distinct])
    judge.decide(
        test,
        f"mean entropy {entropy[indistinct].mean():.2f} nats for {int(indistinct.sum())} images without, "
        f"{entropy[distinct].mean():.2f} with a distinct primary colour (even: 1.10); p = {test.p_value:.2g}",
        claim="no-primary-colour",
    )


@pytest.mark.claim("human-made-or-natural", "human-made-confidence", "mistakes-are-less-confident")
@pytest.mark.reproduces
def test_figure_6_clip_tells_human_made_from_natural(find, backbone: FrozenCLIP, record, judge) -> None:
    """The model tells human-made objects from objects from nature; where it mislabels one, it is less confident."""
    images = shown_by(find("zero-shot-10-test"))
    probabilities, natural = origins_of(images, backbone)
    draw_eight(
        images,
        backbone,
        ORIGIN_TEMPLATE,
        ORIGINS,
        "figure-6",
        f"“{ORIGIN_TEMPLATE}”: eight random test images with their classes; the more probable answer in orange. "
        "Things should have the upper bar in orange, what grows or lives the lower; bars of equal length are an unsure answer.",
        record,
    )
    correct, confidence = (probabilities[:, 1] > 0.5) == natural, probabilities.amax(1)
    words, low, high = share(correct)
    larger = max(float(natural.float().mean()), float((~natural).float().mean()))
    judge.conclude(
        f"right in {words}; {larger:.0%} are of the larger kind, which always giving one answer would get right",
        positive_verdict((low - larger, high - larger)),
        claim="human-made-or-natural",
    )
    words, low, high = share(probabilities[~natural, 0] > 0.75)
    judge.conclude(
        f"“human-made” has over 75% in {words} of human-made objects; high means in above half",
        positive_verdict((low - 0.5, high - 0.5)),
        claim="human-made-confidence",
    )
    test = contrast_test(confidence[correct], -confidence[~correct])
    judge.decide(
        test,
        f"mean confidence {confidence[correct].mean():.1%} where right, {confidence[~correct].mean():.1%} where wrong; "
        f"p = {test.p_value:.2g}",
        claim="mistakes-are-less-confident",
    )


@pytest.mark.claim("abstract-tasks-are-harder")
@pytest.mark.reproduces
def test_the_more_abstract_task_has_more_mistakes(find, backbone: FrozenCLIP, judge) -> None:
    """Telling human-made from natural, the more abstract task, is right less often than telling a distinct primary colour."""
    _, told, distinct, _ = colours_of(shown_by(find("zero-shot-100-test")), backbone)
    probabilities, natural = origins_of(shown_by(find("zero-shot-10-test")), backbone)
    right = (probabilities[:, 1] > 0.5) == natural
    test = contrast_test(told[distinct].float(), -right.float())
    judge.decide(test, f"right in {told[distinct].float().mean():.1%} against {right.float().mean():.1%}; p = {test.p_value:.2g}")
