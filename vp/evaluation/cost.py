"""What a network costs: operations and bytes kept for backward, exactly; time, with its spread; peak memory (report 1.1, 2.6)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vp.machine.errors import NotAvailable, VpError, out_of_memory
from vp.machine.provenance import provenance

MIB = 2**20
T = TypeVar("T")


def saved_bytes(forward: Callable[[], Tensor], resident: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps between `forward()` and its backward pass, each storage counted once.

    Storages of `resident` tensors (parameters, buffers, the batch itself) exist anyway and are not counted. Exact and
    deterministic on every device: it counts what autograd saves, not what an allocator reserves.
    """
    resident = list(resident)
    if any(tensor.is_meta for tensor in resident):
        raise VpError("tensors on the meta device have no storage to count: give tensors on cpu, cuda or mps")
    known = {tensor.untyped_storage().data_ptr() for tensor in resident}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # a storage freed during the forward could lend its address to another

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    del output
    return sum(kept.values())


def network_saved_bytes(network: nn.Module, images: Tensor) -> int:
    """Bytes that autograd keeps of one forward pass of images (B, 3, H, W), beyond parameters, buffers and the images."""
    return saved_bytes(lambda: network(images), [*network.parameters(), *network.buffers(), images])


def multiply_adds(network: nn.Module, image_px: int) -> int:
    """Multiplications with an addition in one image's forward pass: convolutions, linear layers and attention, exactly.

    `network` may be on the `meta` device, where nothing is computed. Half of what torch's counter calls floating-point operations.
    """
    images = torch.empty(1, 3, image_px, image_px, device=next(network.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    return int(counter.get_total_flops()) // 2


# -- time ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """How long one step took on a batch of `batch` images, each time it was measured, in seconds."""

    batch: int
    seconds: tuple[float, ...]

    @property
    def ms_per_batch(self) -> float:
        """Median, in milliseconds for the whole batch."""
        return 1000 * median(self.seconds)

    @property
    def ms_per_image(self) -> float:
        """Median, in milliseconds for one image: that of the batch divided by its images."""
        return self.ms_per_batch / self.batch

    @property
    def quartiles_ms_per_batch(self) -> tuple[float, float]:
        """Lower and upper quartile, in milliseconds for the whole batch."""
        return quartiles([1000 * one for one in self.seconds])


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Lower and upper quartile, interpolated between the values."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float(low), float(high)


def time_each(
    steps: dict[str, Callable[[], object]],
    repeats: int = 9,
    warmup: int = 1,
    at_most_s: float = float("inf"),
    *,
    clock: Callable[[], float] = time.perf_counter,
    synchronise: Callable[[], None] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each step's calls, one of each in turn after a warm-up, so that a drifting machine touches all alike.

    Every other turn goes backwards, so that no step always finds what another has left in the caches. After `at_most_s` seconds
    no further turn begins, but three are always measured (or `repeats`, if fewer). The device has finished its work whenever the
    clock is read.
    """
    wait = wait_for_device if synchronise is None else synchronise
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    begun = clock()
    for turn in range(warmup + repeats):
        if turn >= warmup + 3 and clock() - begun > at_most_s:
            break
        for name in list(steps)[:: 1 if turn % 2 == 0 else -1]:
            wait()
            started = clock()
            steps[name]()
            wait()
            if turn >= warmup:
                seconds[name].append(clock() - started)
    return seconds


def wait_for_device() -> None:
    """Return when the device has finished its queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()


def time_without_and_with_gradients(
    network: nn.Module, images: Tensor, repeats: int, warmup: int = 1, at_most_s: float = float("inf")
) -> tuple[Timing, Timing]:
    """Forward passes under `no_grad` and with saved activations, measured in interleaved pairs.

    The output and what was kept for it are freed within the time measured, as they are in use.
    """

    def without() -> None:
        with torch.no_grad():
            network(images)

    seconds = time_each({"without": without, "with": lambda: network(images)}, repeats, warmup, at_most_s)
    return Timing(len(images), tuple(seconds["without"])), Timing(len(images), tuple(seconds["with"]))


# -- memory ----------------------------------------------------------------------------------------------------------------


class MemoryStatistics(Protocol):
    """The statistics of torch.cuda's allocator."""

    def synchronize(self) -> None: ...
    def reset_peak_memory_stats(self) -> None: ...
    def memory_allocated(self) -> int: ...
    def max_memory_allocated(self) -> int: ...


def peak_mib(forward: Callable[[], object], resident: Iterable[Tensor] = (), statistics: MemoryStatistics | None = None) -> float:
    """Highest MiB on the CUDA device until the output of `forward()` is there: what it allocates, and the `resident` tensors.

    peak - before + resident: what else the process has on the device is not counted. Statistics are reset first, and the output
    is alive when they are read. Raises NotAvailable without a CUDA device: no other counts what it allocates.
    """
    if statistics is None:
        if not torch.cuda.is_available():
            raise NotAvailable(
                "peak memory is counted on CUDA devices and this machine has none: saved_bytes is exact on any device"
            )
        statistics = torch.cuda
    here = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in resident}
    statistics.synchronize()
    statistics.reset_peak_memory_stats()
    before = statistics.memory_allocated()
    output = forward()
    statistics.synchronize()
    peak = statistics.max_memory_allocated()
    del output
    return (peak - before + sum(here.values())) / MIB


def back_off(step: Callable[[int], T], batch: int) -> tuple[T, int]:
    """The result of `step(batch)`, with the batch halved until it fits into memory, and the batch that fitted.

    Raises ValueError for a batch below 1, VpError when not even one image fits.
    """
    if batch < 1:
        raise ValueError(f"a batch of {batch} images: give at least 1")
    fitting = batch
    while True:
        try:
            return step(fitting), fitting
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        # Outside of `except`, so that the traceback no longer keeps the failed step's tensors.
        if fitting == 1:
            raise VpError(
                f"not even one image fits into memory, {batch} were asked for ({reason}): take smaller images or networks"
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        fitting //= 2


# -- a network's costs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NetworkCost:
    """The cost of a network's forward pass on one device, without and with gradients. `asked` are the batches that were wanted.

    Each measurement knows its own batch, which is smaller than the one asked for where memory did not suffice.
    """

    without: Timing
    with_gradients: Timing
    asked_time_batch: int
    saved_per_image: int  # bytes; those of two or more images are fixed_saved + saved_per_image * batch, exactly
    fixed_saved: int
    memory_batch: int  # images for which the peaks were measured
    asked_memory_batch: int
    peak_mib_without: float | None  # None: the device does not count it
    peak_mib_with: float | None
    provenance: dict[str, str] = field(default_factory=dict)

    @property
    def ratios(self) -> list[float]:
        """Time without by time with gradients, of each interleaved pair: below 1 where `no_grad` is faster."""
        return [a / b for a, b in zip(self.without.seconds, self.with_gradients.seconds, strict=True)]

    def saved_mib(self, batch: int) -> float:
        """MiB that autograd keeps for a batch, by the exact law that saved bytes follow."""
        return (self.fixed_saved + batch * self.saved_per_image) / MIB


def network_cost(
    network: nn.Module,
    image_px: int,
    *,
    time_batch: int = 8,
    memory_batch: int = 64,
    repeats: int = 50,
    at_most_s: float = float("inf"),
) -> NetworkCost:
    """Measures a network on the device it is on, which should be this process's alone (vp.machine.device_lock); see NetworkCost."""
    device = next(network.parameters()).device

    def images(batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch, 3, image_px, image_px, generator=generator).to(device)

    # A single image may take less than its share, so that two and three say what each further one takes.
    (two, three), _ = back_off(lambda least: [network_saved_bytes(network, images(n * least)) for n in (2, 3)], 1)
    (without, with_gradients), _ = back_off(
        lambda batch: time_without_and_with_gradients(network, images(batch), repeats, at_most_s=at_most_s), time_batch
    )
    peaks: tuple[float, float] | tuple[None, None] = (None, None)
    used = memory_batch
    if device.type == "cuda":
        peaks, used = back_off(lambda batch: _peaks(network, images(batch)), memory_batch)
    return NetworkCost(
        without=without,
        with_gradients=with_gradients,
        asked_time_batch=time_batch,
        saved_per_image=three - two,
        fixed_saved=3 * two - 2 * three,
        memory_batch=used,
        asked_memory_batch=memory_batch,
        peak_mib_without=peaks[0],
        peak_mib_with=peaks[1],
        provenance=provenance(device),
    )


def _peaks(network: nn.Module, images: Tensor) -> tuple[float, float]:
    """MiB at the peak of a forward pass without and with gradients, each after one for warming up."""
    resident = [*network.parameters(), *network.buffers(), images]
    peaks = []
    for with_gradients in (False, True):
        with torch.set_grad_enabled(with_gradients):
            network(images)
            peaks.append(peak_mib(lambda: network(images), resident))
    return peaks[0], peaks[1]
