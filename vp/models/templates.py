"""Lists of templates for an ensemble: from a file, or those of open_clip."""

from __future__ import annotations

from pathlib import Path

from vp.machine.errors import VpError
from vp.models.clip import fill_template

LISTS = {"openai": "OPENAI_IMAGENET_TEMPLATES", "simple": "SIMPLE_IMAGENET_TEMPLATES"}  # 80 and 7 templates


def templates_of(name: str) -> tuple[str, ...]:
    """open_clip's list `openai` or `simple`, or the templates of a file, one a line; empty lines are none.

    Raises VpError for a file that cannot be read or has none, a template without `{}`, or one that is there twice.
    """
    if name in LISTS:
        from open_clip import zero_shot_metadata

        found = [template("{}") for template in getattr(zero_shot_metadata, LISTS[name])]
        return tuple(dict.fromkeys(found))
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise VpError(f"cannot read templates from {name} ({error}): give {' or '.join(LISTS)}, or a file of one a line") from error
    templates = tuple(line.strip() for line in lines if line.strip())
    if not templates or len(set(templates)) < len(templates):
        raise VpError(f"{name} has {len(templates)} templates, {len(set(templates))} of them distinct: give each once")
    for template in templates:
        fill_template(template, ["label"])
    return templates
