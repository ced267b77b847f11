"""Run the learner's step functions: eagerly, or on a GPU as CUDA graphs.

A step function has neither arguments nor results: it reads and writes tensors at fixed addresses.
On a GPU launching its thousand small kernels takes far longer than running them; captured as one
graph, they are launched together.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Hashable

import torch

StepFunction = Callable[[], object]
WARM_UP = 3  # calls before a capture, in which libraries and optimisers allocate their state
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT, _DEFAULT = 1 << 30, 128 << 10  # [bytes]


def set_up(device: torch.device, threads: int) -> None:
    """Set up this process for training.

    `threads` is the number of torch's CPU threads; 0: torch's default.
    """
    if threads:
        torch.set_num_threads(threads)
    if device.type == "cuda":
        if device.index is not None:  # streams and graphs are made on the current device
            torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = True
        return
    keep_freed_memory(True)


def keep_freed_memory(keep: bool) -> None:
    """Set whether the C library keeps freed memory for later allocations, up to 1 GiB.

    Otherwise it returns every large tensor to the kernel, which clears the pages again at the
    next allocation: 7 % of an update at the paper's sizes. Only glibc has the setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT if keep else _DEFAULT)
        mallopt(_M_TRIM_THRESHOLD, _KEPT if keep else _DEFAULT)


class CudaGraphs:
    """Runs step functions; with `capture` each becomes a CUDA graph after its first few calls.

    Args:
        generator: of their random numbers; a replay continues where the last one ended.
        capture: only for a CUDA device.
    """

    def __init__(self, generator: torch.Generator, capture: bool) -> None:
        self._generator, self._capture = generator, capture
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._calls: dict[Hashable, int] = {}

    def run(self, key: Hashable, body: StepFunction) -> None:
        """Run `body`; all calls with the same key must do the same on the same tensors."""
        if not self._capture:
            body()
        elif key in self._graphs:
            self._graphs[key].replay()
        else:
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._calls[key] > WARM_UP:
                self._graphs[key] = self._captured(body)
                self._graphs[key].replay()
            else:
                self._beside(body)

    def forget(self) -> None:
        """Capture anew: a number that graphs contain has changed."""
        self._graphs.clear()
        self._calls.clear()

    def _beside(self, body: StepFunction) -> None:
        """Run `body` on a separate stream, as is required before a capture."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            body()
        torch.cuda.current_stream().wait_stream(stream)

    def _captured(self, body: StepFunction) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        with torch.cuda.graph(graph):
            body()
        return graph
