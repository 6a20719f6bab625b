"""Hypothesis draws torch's randomness, too, and no fast test touches the user's store."""

from __future__ import annotations

import hypothesis
import pytest
import torch


class _TorchStream:
    """Hypothesis seeds random and numpy by itself; this lets it seed, read and restore torch's global stream as well."""

    def seed(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed writes down the whole stack for CUDA, each time

    def getstate(self) -> torch.Tensor:
        return torch.get_rng_state()

    def setstate(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)


TORCH_STREAM = _TorchStream()  # hypothesis keeps only a weak reference
hypothesis.register_random(TORCH_STREAM)


@pytest.fixture(autouse=True)
def _own_home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only tests that reproduce runs use the user's store; every other test has an empty one."""
    if request.node.get_closest_marker("reproduces") is None:
        monkeypatch.setenv("VP_HOME", str(tmp_path_factory.mktemp("vp-home")))
