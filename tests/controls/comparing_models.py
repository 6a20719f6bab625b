"""Wrong measures of cost and of correlation. Each breaks one sentence and must be rejected by the test named."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, mean, stdev

import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vp.evaluation import Correlation, Timing, correlation, network_saved_bytes, time_each
from vp.evaluation.cost import MIB, MemoryStatistics

# -- saved bytes: test_wrong_counts_of_saved_bytes_break_a_law -------------------------------------------------------------


def counts_parameters(network: nn.Module, images: Tensor) -> int:
    """Takes parameters, which are there anyway, for something kept."""
    return network_saved_bytes(network, images) + sum(p.nbytes for p in network.parameters())


def ignores_no_grad(network: nn.Module, images: Tensor) -> int:
    """Counts what a forward pass with gradients would keep."""
    with torch.enable_grad():
        return network_saved_bytes(network, images)


def keeps_by_the_page(network: nn.Module, images: Tensor) -> int:
    """Rounds up to blocks of 2 MiB, as allocators reserve them: no longer linear in the batch."""
    block = 2**21
    return -(-network_saved_bytes(network, images) // block) * block


def counts_each_use(network: nn.Module, images: Tensor) -> int:
    """A tensor that two layers keep is counted twice: test_saved_bytes_of_a_convolution_are_those_counted_by_hand."""
    total = 0
    known = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers(), images)}

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.untyped_storage().nbytes() * (tensor.untyped_storage().data_ptr() not in known)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(images)
    return total


def counts_images(network: nn.Module, images: Tensor) -> int:
    """Counts the batch itself, too: test_saved_bytes_of_a_convolution_are_those_counted_by_hand."""
    return network_saved_bytes(network, images) + images.nbytes


class Rounding(nn.Module):
    """Computes with half the digits under no_grad: test_a_network_that_behaves_otherwise_under_no_grad_breaks_a_law."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.layer(images).relu()
        return output if torch.is_grad_enabled() else output.half().float()


# -- operations: test_wrong_counts_of_operations_are_rejected --------------------------------------------------------------


def parameters_for_operations(network: nn.Module, image_px: int) -> int:
    """Takes each parameter for one operation, wherever it is used."""
    return sum(p.numel() for p in network.parameters())


def floating_point_operations(network: nn.Module, image_px: int) -> int:
    """Counts multiplications and additions apart."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, image_px, image_px, device="meta"))
    return int(counter.get_total_flops())


# -- time (tests/machinery/test_cost.py) -------------------------------------------------------------------------------------------

Steps = dict[str, Callable[[], object]]


def without_synchronising(steps: Steps, repeats: int, warmup: int, clock: Callable[[], float], synchronise: Callable[[], None]):
    """Reads the clock while the device still works: test_the_device_has_finished_whenever_the_clock_is_read."""
    return time_each(steps, repeats, warmup, clock=clock, synchronise=lambda: None)


def without_warming_up(steps: Steps, repeats: int, warmup: int, clock: Callable[[], float], synchronise: Callable[[], None]):
    """Counts the first call: test_the_first_calls_are_not_measured."""
    return time_each(steps, repeats, 0, clock=clock, synchronise=synchronise)


def one_after_the_other(steps: Steps, repeats: int, warmup: int, clock: Callable[[], float], synchronise: Callable[[], None]):
    """All repeats of one step, then all of the next: test_a_drifting_machine_touches_all_steps_alike."""
    return {
        name: time_each({name: step}, repeats, warmup, clock=clock, synchronise=synchronise)[name] for name, step in steps.items()
    }


def always_in_the_same_order(steps: Steps, repeats: int, warmup: int, clock: Callable[[], float], synchronise: Callable[[], None]):
    """The second step always comes later: test_a_drifting_machine_touches_all_steps_alike."""
    turns = [one_after_the_other(steps, 1, 0, clock, synchronise) for _ in range(warmup + repeats)][warmup:]
    return {name: [turn[name][0] for turn in turns] for name in steps}


@dataclass(frozen=True)
class PerBatchCalledPerImage(Timing):
    """What the report did (errata 17): test_times_are_given_for_a_batch_and_for_an_image."""

    @property
    def ms_per_image(self) -> float:
        return self.ms_per_batch


@dataclass(frozen=True)
class MeanTime(Timing):
    """One interruption moves it: test_times_are_given_for_a_batch_and_for_an_image."""

    @property
    def ms_per_batch(self) -> float:
        return 1000 * mean(self.seconds)


# -- memory (tests/machinery/test_cost.py): test_the_peak_is_that_of_the_forward_pass ----------------------------------------------


def peak_without_resetting(forward: Callable[[], object], resident: Sequence[Tensor], memory: MemoryStatistics) -> float:
    """An earlier peak counts for this one."""
    before = memory.memory_allocated()
    output = forward()
    peak = memory.max_memory_allocated()
    del output
    return (peak - before + sum(tensor.nbytes for tensor in resident)) / MIB


def memory_after_the_output_is_gone(forward: Callable[[], object], resident: Sequence[Tensor], memory: MemoryStatistics) -> float:
    """Reads what is allocated when the output, and all that it keeps, has been freed."""
    before = memory.memory_allocated()
    forward()
    return (memory.memory_allocated() - before + sum(tensor.nbytes for tensor in resident)) / MIB


def peak_of_the_process(forward: Callable[[], object], resident: Sequence[Tensor], memory: MemoryStatistics) -> float:
    """Counts what others in the process have on the device."""
    memory.reset_peak_memory_stats()
    output = forward()
    peak = memory.max_memory_allocated()
    del output
    return peak / MIB


# -- correlation (tests/machinery/test_cost.py): test_the_correlation_is_the_published_one -----------------------------------------


def mixed_degrees_of_freedom(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Divides the covariance by N and the variances by N - 1."""
    covariance = fmean(a * b for a, b in zip(x, y, strict=True)) - fmean(x) * fmean(y)
    right = correlation(x, y)
    return Correlation(covariance / (stdev(x) * stdev(y)), right.interval, right.leave_one_out)


def interval_without_transform(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """r +- 1.96 standard errors, symmetric and beyond 1."""
    right = correlation(x, y)
    half = 1.96 * math.sqrt((1 - right.r**2) / (len(x) - 2))
    return Correlation(right.r, (right.r - half, right.r + half), right.leave_one_out)


def no_interval(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """As the report prints it: a number alone."""
    right = correlation(x, y)
    return Correlation(right.r, (right.r, right.r), right.leave_one_out)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Spearman's, which is another question."""
    right = correlation(x, y)
    return Correlation(float(stats.spearmanr(x, y).statistic), right.interval, right.leave_one_out)


def leaves_out_none(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """The same r for each value left out."""
    right = correlation(x, y)
    return Correlation(right.r, right.interval, (right.r,) * len(x))
