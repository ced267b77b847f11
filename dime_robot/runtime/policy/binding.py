"""Binding of arrays to an ONNX Runtime session: bound once, reused for every call."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from dime_robot.runtime.contract.policy_spec import Float32Array


class Binding(Protocol):
    """Inputs and one output at fixed addresses."""

    def run(self) -> None:
        """Compute the output array from the current values of the input arrays."""


class CpuBinding:
    """The session reads and writes the arrays directly: a call allocates nothing."""

    def __init__(
        self, session: Any, inputs: dict[str, Float32Array], output: tuple[str, Float32Array]
    ) -> None:
        self._session, self._binding = session, session.io_binding()
        self._kept = (inputs, output)  # the session only has their addresses
        for name, array in inputs.items():
            self._binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        name, array = output
        self._binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def run(self) -> None:
        """See `Binding`."""
        self._session.run_with_iobinding(self._binding)


class GpuBinding:
    """Device memory at fixed addresses, as CUDA graphs need it; two copies in, one out.

    Not run so far: no test machine has had a GPU.
    """

    def __init__(
        self,
        ort: Any,
        session: Any,
        inputs: dict[str, Float32Array],
        output: tuple[str, Float32Array],
    ) -> None:
        self._session, self._binding = session, session.io_binding()
        self._inputs = {
            name: (array, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
            for name, array in inputs.items()
        }
        for name, (_, value) in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        name, self._action = output
        self._result = ort.OrtValue.ortvalue_from_shape_and_type(
            self._action.shape, np.float32, "cuda", 0
        )
        self._binding.bind_ortvalue_output(name, self._result)

    def run(self) -> None:
        """See `Binding`."""
        for array, value in self._inputs.values():
            value.update_inplace(array)
        self._session.run_with_iobinding(self._binding)
        np.copyto(self._action, self._result.numpy())


def provider_options(provider: str, engines: str = "") -> dict[str, str]:
    """Return the options of an execution provider, as ONNX Runtime documents them.

    Args:
        provider: cpu, cuda or tensorrt.
        engines: folder in which TensorRT's engines are cached.
    """
    if provider == "cuda":
        return {"enable_cuda_graph": "1", "use_tf32": "0"}
    if provider == "tensorrt":
        return {
            "trt_cuda_graph_enable": "1",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": engines,
            "trt_engine_cache_prefix": "policy",
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": engines,
        }
    return {}
