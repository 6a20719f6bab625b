"""vp.evaluation.cost and the correlation of few values: times, peaks and batches that fit, on made-up clocks and devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.controls import comparing_models as controls
from vp.evaluation import (
    Correlation,
    Timing,
    above_trend,
    back_off,
    correlation,
    network_cost,
    network_saved_bytes,
    peak_mib,
    quartiles,
    signed_rank_test,
    time_each,
)
from vp.machine.errors import NotAvailable, VpError
from vp.report.expectations import Verdict, absent_verdict, faster_verdict, positive_verdict, repeated_verdict

# -- saved bytes -----------------------------------------------------------------------------------------------------------


def assert_counts_a_convolution(count: Callable[[nn.Module, Tensor], int]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    output_of_relu, places_of_maxima = 4 * 8 * 16 * 16, 8 * 8 * 8 * 8
    assert count(network, torch.randn(5, 3, 16, 16)) == 5 * (output_of_relu + places_of_maxima)


def test_saved_bytes_of_a_convolution_are_those_counted_by_hand() -> None:
    """Convolution, ReLU in place and pooling keep the ReLU's output, once, and the places of maxima; no input, no parameter."""
    assert_counts_a_convolution(network_saved_bytes)


@pytest.mark.parametrize("wrong", [controls.counts_parameters, controls.counts_each_use, controls.counts_images])
def test_wrong_counts_of_a_convolution_are_rejected(wrong: Callable[[nn.Module, Tensor], int]) -> None:
    """Each wrong count differs from the one by hand."""
    with pytest.raises(AssertionError):
        assert_counts_a_convolution(wrong)


# -- time ------------------------------------------------------------------------------------------------------------------


class Device:
    """A made-up device: a call returns at once, its work ends later; the machine slows down by `drift` a second."""

    def __init__(self, drift: float = 0.0) -> None:
        self.now, self.busy_until, self.drift = 0.0, 0.0, drift

    def clock(self) -> float:
        return self.now

    def synchronise(self) -> None:
        self.now = max(self.now, self.busy_until)

    def step(self, seconds: float, first: float = 0.0) -> Callable[[], None]:
        """Work of so many seconds; `first` more for the first call."""
        called = 0

        def call() -> None:
            nonlocal called
            self.now += 1e-6
            self.busy_until = max(self.now, self.busy_until) + seconds * (1 + self.drift * self.now) + (0 if called else first)
            called += 1

        return call


def right(
    steps: dict[str, Callable[[], object]], repeats: int, warmup: int, clock: Callable[[], float], synchronise: Callable[[], None]
) -> dict[str, list[float]]:
    return time_each(steps, repeats, warmup, clock=clock, synchronise=synchronise)


def assert_waits(measure: Callable[..., dict[str, list[float]]]) -> None:
    device = Device()
    seconds = measure({"short": device.step(1), "long": device.step(3)}, 4, 1, device.clock, device.synchronise)
    assert seconds == {"short": pytest.approx([1] * 4, rel=1e-4), "long": pytest.approx([3] * 4, rel=1e-4)}


def assert_warms_up(measure: Callable[..., dict[str, list[float]]]) -> None:
    device = Device()
    seconds = measure({"step": device.step(1, first=13)}, 4, 1, device.clock, device.synchronise)
    assert seconds["step"] == pytest.approx([1] * 4, rel=1e-4)


def assert_alike_on_a_drifting_machine(measure: Callable[..., dict[str, list[float]]]) -> None:
    device = Device(drift=0.01)
    seconds = measure({"one": device.step(1), "other": device.step(1)}, 10, 1, device.clock, device.synchronise)
    ratios = [a / b for a, b in zip(seconds["one"], seconds["other"], strict=True)]
    assert abs(median(ratios) - 1) < 1e-3


def test_the_device_has_finished_whenever_the_clock_is_read() -> None:
    """The time of a step is that of the device's work, not of handing it over."""
    assert_waits(right)


def test_the_first_calls_are_not_measured() -> None:
    """A first call, which may take many times as long, is for warming up."""
    assert_warms_up(right)


def test_a_drifting_machine_touches_all_steps_alike() -> None:
    """Two equal steps have a median ratio of 1 even on a machine that slows down all the time."""
    assert_alike_on_a_drifting_machine(right)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (controls.without_synchronising, assert_waits),
        (controls.without_warming_up, assert_warms_up),
        (controls.one_after_the_other, assert_alike_on_a_drifting_machine),
        (controls.always_in_the_same_order, assert_alike_on_a_drifting_machine),
    ],
)
def test_wrong_ways_of_timing_are_rejected(wrong: Callable[..., object], rule: Callable[[Callable[..., object]], None]) -> None:
    """Each wrong way of timing fails the rule named for it."""
    with pytest.raises(AssertionError):
        rule(wrong)


@pytest.mark.parametrize(("at_most_s", "measured"), [(0, 3), (5.5, 5), (100, 9)])
def test_a_measurement_ends_in_time_but_not_before_three_turns(at_most_s: float, measured: int) -> None:
    """No turn begins after the time given, warm-up included, but three are always measured."""
    device = Device()
    seconds = time_each({"step": device.step(1)}, 9, 1, at_most_s, clock=device.clock, synchronise=device.synchronise)
    assert len(seconds["step"]) == measured


def assert_units(kind: type[Timing]) -> None:
    timing = kind(8, (0.016, 0.016, 0.024, 0.4, 0.008))
    assert timing.ms_per_batch == pytest.approx(16)
    assert timing.ms_per_image == pytest.approx(2)
    assert timing.quartiles_ms_per_batch == pytest.approx((16, 24))


def test_times_are_given_for_a_batch_and_for_an_image() -> None:
    """A time is a median, for a batch and, divided by its images, for an image; the quartiles are the batch's."""
    assert_units(Timing)


@pytest.mark.parametrize("wrong", [controls.PerBatchCalledPerImage, controls.MeanTime])
def test_wrong_units_and_means_are_rejected(wrong: type[Timing]) -> None:
    """A batch's time called an image's, as in the report, and a mean that one interruption moves are rejected."""
    with pytest.raises(AssertionError):
        assert_units(wrong)


def test_the_quartiles_of_one_value_are_that_value() -> None:
    """A single measurement has no spread to show."""
    assert quartiles([3.5]) == (3.5, 3.5)


# -- memory ----------------------------------------------------------------------------------------------------------------


class Memory:
    """A made-up allocator, with what `torch.cuda` tells of its own."""

    def __init__(self, allocated: int) -> None:
        self.allocated = self.peak = allocated

    def allocate(self, size: int) -> Block:
        self.allocated += size
        self.peak = max(self.peak, self.allocated)
        return Block(self, size)

    def synchronize(self) -> None:
        pass

    def reset_peak_memory_stats(self) -> None:
        self.peak = self.allocated

    def memory_allocated(self) -> int:
        return self.allocated

    def max_memory_allocated(self) -> int:
        return self.peak


class Block:
    """Memory that is freed when nothing refers to it any more, as a tensor's is."""

    def __init__(self, memory: Memory, size: int) -> None:
        self.memory, self.size = memory, size

    def __del__(self) -> None:
        self.memory.allocated -= self.size


def assert_peak_of_the_forward_pass(peak: Callable[..., float]) -> None:
    """2 MiB resident among 10 allocated, a forward pass that needs 5 at once and keeps 3, after an earlier peak of 110."""
    mib = 2**20
    memory = Memory(10 * mib)
    memory.allocate(100 * mib)  # freed at once

    def forward() -> Block:
        work = memory.allocate(2 * mib)
        output = memory.allocate(3 * mib)
        del work
        return output

    assert peak(forward, [torch.empty(2 * mib, dtype=torch.uint8)], memory) == pytest.approx(7)
    assert memory.allocated == 10 * mib


def test_the_peak_is_that_of_the_forward_pass() -> None:
    """The peak counts what the forward pass allocates and what it works on: no earlier peak, and nothing of others."""
    assert_peak_of_the_forward_pass(peak_mib)


@pytest.mark.parametrize(
    "wrong", [controls.peak_without_resetting, controls.memory_after_the_output_is_gone, controls.peak_of_the_process]
)
def test_wrong_peaks_are_rejected(wrong: Callable[..., float]) -> None:
    """Each wrong peak differs."""
    with pytest.raises(AssertionError):
        assert_peak_of_the_forward_pass(wrong)


def test_the_output_is_alive_when_the_peak_is_read() -> None:
    """Statistics are read while the output, and with it all that it keeps for a backward pass, is still there."""
    alive = []

    class Watched(Memory):
        def max_memory_allocated(self) -> int:
            alive.append(self.allocated)
            return super().max_memory_allocated()

    memory = Watched(0)
    peak_mib(lambda: memory.allocate(5), (), memory)
    assert alive == [5]


def test_without_cuda_there_is_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no CUDA device counts what it allocates the peak is NOT RUN, and the message says what is exact anywhere."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NotAvailable, match=r"peak memory is counted on CUDA devices .* saved_bytes is exact on any device"):
        peak_mib(lambda: None)


def step_that_fits(most: int, error: Exception) -> tuple[Callable[[int], str], list[int]]:
    """A step that runs out of memory above `most` images, and the batches it was tried with."""
    tried: list[int] = []

    def step(batch: int) -> str:
        tried.append(batch)
        if batch > most:
            raise error
        return f"{batch} done"

    return step, tried


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GiB, other allocations: 1.0 GiB, max allowed: 10.0 GiB)."),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@given(batch=st.integers(1, 200), most=st.integers(1, 300))
def test_a_batch_that_does_not_fit_is_halved(error: Exception, batch: int, most: int) -> None:
    """A batch that does not fit is halved until it does, and the result says which batch that was."""
    step, tried = step_that_fits(most, error)
    done, used = back_off(step, batch)
    assert done == f"{used} done"
    assert tried == [batch >> halvings for halvings in range(len(tried))]
    assert used == tried[-1] <= most
    assert all(one > most for one in tried[:-1])


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_not_even_one_image_is_an_error(error: Exception) -> None:
    """When one image does not fit either, the error says how many were asked for and what to do."""
    step, tried = step_that_fits(0, error)
    with pytest.raises(VpError, match=r"not even one image fits into memory, 8 were asked for \(.+\): take smaller images"):
        back_off(step, 8)
    assert tried == [8, 4, 2, 1]


def test_the_cpus_own_out_of_memory_is_recognised() -> None:
    """What torch really raises when the CPU cannot give the memory makes a batch smaller."""
    tensor, used = back_off(lambda batch: torch.empty(2**52 if batch > 2 else 1), 8)
    assert used == 2
    assert tensor.numel() == 1


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    """An error of another kind passes through at once."""
    step, tried = step_that_fits(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        back_off(step, 8)
    assert tried == [8]


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_below_one_is_an_error(batch: int) -> None:
    """No images are no batch."""
    with pytest.raises(ValueError, match="give at least 1"):
        back_off(lambda batch: batch, batch)


class Hungry(nn.Module):
    """A layer that runs out of memory above three images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 3:
            raise torch.OutOfMemoryError("out of memory")
        output: Tensor = self.layer(images).square()
        return output


def test_a_networks_cost_says_which_batch_fitted() -> None:
    """Where the batch asked for does not fit, times are of the one that did, per image divided by that one, and it is said."""
    cost = network_cost(Hungry(), 8, time_batch=8, repeats=3)
    assert (cost.asked_time_batch, cost.without.batch, cost.with_gradients.batch) == (8, 2, 2)
    assert len(cost.ratios) == 3
    assert cost.peak_mib_with is None
    kept = 4 * 4 * 6 * 6  # the layer's output
    assert (cost.fixed_saved, cost.saved_per_image) == (0, kept)
    assert cost.saved_mib(64) == 64 * kept / 2**20


# -- correlation -----------------------------------------------------------------------------------------------------------

ANSCOMBE_X = [10.0, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5]
ANSCOMBE_1 = [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68]
ANSCOMBE_3 = [7.46, 6.77, 12.74, 7.11, 7.81, 8.84, 6.08, 5.39, 8.15, 6.42, 5.73]


def assert_published(correlate: Callable[[Sequence[float], Sequence[float]], Correlation]) -> None:
    """Anscombe (1973), sets 1 and 3, with the interval that R's cor.test gives; all but one point of set 3 lie on a line."""
    first, third = correlate(ANSCOMBE_X, ANSCOMBE_1), correlate(ANSCOMBE_X, ANSCOMBE_3)
    assert first.r == pytest.approx(0.8164205, abs=5e-8)
    assert first.interval == pytest.approx((0.4243912, 0.9506933), abs=5e-8)
    assert third.r == pytest.approx(0.8162867, abs=5e-8)
    assert third.leave_one_out[ANSCOMBE_X.index(13)] > 0.99999
    assert third.range_without_one == (min(third.leave_one_out), third.leave_one_out[ANSCOMBE_X.index(13)])


def test_the_correlation_is_the_published_one() -> None:
    """r and its interval are those published for Anscombe's data, and leaving out one point finds the one that r rests on."""
    assert_published(correlation)


@pytest.mark.parametrize(
    "wrong",
    [
        controls.mixed_degrees_of_freedom,
        controls.interval_without_transform,
        controls.no_interval,
        controls.rank_correlation,
        controls.leaves_out_none,
    ],
)
def test_wrong_correlations_are_rejected(wrong: Callable[[Sequence[float], Sequence[float]], Correlation]) -> None:
    """Each wrong correlation differs from the published one."""
    with pytest.raises(AssertionError):
        assert_published(wrong)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1.0, 2, 3], [1.0, 2, 3], "3 and 3 values: give equally many, four or more"),
        ([1.0, 2, 3, 4], [1.0, 2, 3], "4 and 3 values"),
        ([1.0, 2, 3, math.nan], [1.0, 2, 3, 4], "give finite values"),
        ([1.0, 1, 1, 1], [1.0, 2, 3, 4], "the first values .* are constant"),
        ([1.0, 2, 3, 4], [5.0, 1, 1, 1], "the second values .* or are so without one of them"),
    ],
)
def test_values_without_a_correlation_are_an_error(x: list[float], y: list[float], message: str) -> None:
    """Too few, unequal, endless or constant values have no correlation, and the error says so."""
    with pytest.raises(ValueError, match=message):
        correlation(x, y)


def test_above_trend_is_the_residual_of_the_line() -> None:
    """Points on a line lie 0 above it; residuals add up to 0."""
    assert above_trend([1, 2, 4], [3, 5, 9]) == pytest.approx([0, 0, 0])
    assert sum(above_trend(ANSCOMBE_X, ANSCOMBE_1)) == pytest.approx(0)
    assert above_trend([0, 1, 2], [0, 3, 0]) == pytest.approx([-1, 2, -1])


def test_ratios_are_tested_by_their_signed_ranks() -> None:
    """Six pairs that all favour the first have p = 2 / 2^6; ratios and their inverses say the same of either side."""
    ratios = [0.9, 0.8, 0.95, 0.7, 0.99, 0.85]
    assert signed_rank_test(ratios) == (pytest.approx(0.875), pytest.approx(2 / 64))
    assert signed_rank_test([1 / ratio for ratio in ratios])[1] == pytest.approx(2 / 64)


@pytest.mark.parametrize("ratios", [[], [1.0, 1.0], [0.5, math.inf], [0.5, 0.0], [0.5, math.nan]])
def test_ratios_that_say_nothing_are_an_error(ratios: list[float]) -> None:
    """No ratios, only ones, or one that is no ratio of times, are refused."""
    with pytest.raises(ValueError, match="give finite values above 0"):
        signed_rank_test(ratios)


# -- verdicts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "positive", "absent"),
    [
        ((0.1, 0.9), Verdict.REPRODUCED, Verdict.CONTRADICTED),
        ((-0.9, -0.1), Verdict.CONTRADICTED, Verdict.CONTRADICTED),
        ((-0.5, 0.5), Verdict.WITHIN_NOISE, Verdict.WITHIN_NOISE),
    ],
)
def test_an_interval_decides(interval: tuple[float, float], positive: Verdict, absent: Verdict) -> None:
    """Above 0 is shown by an interval above 0; absence can be excluded by an interval, and never shown."""
    assert positive_verdict(interval) is positive
    assert absent_verdict(interval) is absent


@pytest.mark.parametrize(
    ("ratio", "p_value", "verdict"),
    [(0.9, 0.01, Verdict.REPRODUCED), (1.1, 0.01, Verdict.CONTRADICTED), (0.9, 0.06, Verdict.WITHIN_NOISE)],
)
def test_faster_needs_a_significant_ratio(ratio: float, p_value: float, verdict: Verdict) -> None:
    """Less time is shown by a ratio below 1 that is significant."""
    assert faster_verdict(ratio, p_value) is verdict


@pytest.mark.parametrize(
    ("times", "repeats", "verdict"),
    [(5, 5, Verdict.REPRODUCED), (0, 5, Verdict.CONTRADICTED), (4, 5, Verdict.WITHIN_NOISE), (49, 50, Verdict.REPRODUCED)],
)
def test_what_holds_in_nearly_all_repeats_is_reproduced(times: int, repeats: int, verdict: Verdict) -> None:
    """A measurement that gives the same answer in 95% of its repeats has decided."""
    assert repeated_verdict(times, repeats) is verdict
