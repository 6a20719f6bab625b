"""Template ensembles: the formula, its laws, and where lists come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vp.experiments.methods import clip_of
from vp.experiments.own import own_run
from vp.machine.errors import VpError
from vp.models.templates import templates_of

NAMES = ("red house", "blue fish", "green key")
TEMPLATES = ("This is a photo of a {}", "a {}", "a photo of a {}", "a pale {}", "{} on white")
ensembles = st.lists(st.sampled_from(TEMPLATES), min_size=1, max_size=6)


@given(ensembles)
def test_an_ensemble_is_the_normalised_mean_of_unit_features(templates: list[str]) -> None:
    """f_k = m_k / |m_k|, where m_k is the mean over templates of class k's unit text feature."""
    clip = clip_of("mini-clip")
    found = clip.class_features(NAMES, tuple(templates))
    for k, name in enumerate(NAMES):
        total = torch.zeros(clip.width)
        for template in templates:
            feature = clip.encode_text([template.format(name)])[0]
            total += feature / feature.norm()
        mean = total / len(templates)
        torch.testing.assert_close(found[k], mean / mean.norm())


@given(ensembles, st.randoms())
def test_the_order_and_common_repetition_of_templates_do_not_matter(templates: list[str], random: object) -> None:
    """A permuted ensemble, and one in which each template stands twice, has the same features; one template is no ensemble."""
    clip = clip_of("mini-clip")
    found = clip.class_features(NAMES, tuple(templates))
    mixed = [*templates, *templates]
    random.shuffle(mixed)  # type: ignore[attr-defined]
    torch.testing.assert_close(clip.class_features(NAMES, tuple(mixed)), found)
    torch.testing.assert_close(clip.class_features(NAMES, (templates[0],)), clip.class_features(NAMES, templates[0]))


def test_lists_come_from_open_clip_or_a_file(tmp_path: Path) -> None:
    """`openai` has 80 templates, `simple` 7; a file has one a line; twice the same, none, and no place for the label are errors."""
    assert (len(templates_of("openai")), len(templates_of("simple"))) == (80, 7)
    file = tmp_path / "templates.txt"
    file.write_text("a {}\n\nthe {}\n")
    assert templates_of(str(file)) == ("a {}", "the {}")
    for text, message in (("a {}\na {}\n", "2 templates, 1 of them distinct"), ("\n", "0 templates"), ("a\n", "exactly once")):
        file.write_text(text)
        with pytest.raises(VpError, match=message):
            templates_of(str(file))
    with pytest.raises(VpError, match="cannot read templates"):
        templates_of("missing")
    with pytest.raises(VpError, match="no templates"):
        clip_of("mini-clip").class_features(NAMES, ())


def test_an_ensemble_is_a_setting_of_a_run() -> None:
    """Runs with other templates are other runs."""
    one, two = (own_run("mini10", "zero-shot", template=template) for template in (TEMPLATES[:2], TEMPLATES[:3]))
    assert one.canonical() != two.canonical()
    assert one.template == TEMPLATES[:2]
