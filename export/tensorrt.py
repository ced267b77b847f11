"""Compile an exported policy for one GPU: `python -m export.tensorrt policy.onnx`.

Builds a TensorRT engine with NVIDIA's `tensorrt` package and compares it with the ONNX file. An
engine is valid for one GPU model and TensorRT version, so its cache key holds both, with the
precision and the policy's digest. Not run by the authors of this project: no test machine has had
TensorRT (docs/inference.md says what has been measured where).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dime_robot.runtime.command import run_command
from dime_robot.runtime.errors import InputError
from dime_robot.runtime.policy import ENGINE_CACHE, OnnxPolicy

PARITY_ROWS = 1000
LIMITS = {"fp32": 1e-4, "fp16": 2e-2}  # largest action difference to the ONNX file


def require(name: str, what: str) -> Any:
    """Import an optional package.

    Raises:
        InputError: it is not installed, or its libraries are not.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{what} needs the package {name}, which is not usable here ({reason}); on a machine"
            " with an NVIDIA GPU: pip install 'tensorrt>=10,<11' 'torch>=2.6'. The ONNX file runs"
            " without it"
        ) from None


def cache_key(gpu: str, version: str, precision: str, policy_digest: str) -> str:
    """Name of an engine: what it is valid for."""
    text = "\n".join((gpu, version, precision, policy_digest))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def build_engine(trt: Any, content: bytes, precision: str) -> bytes:
    """Compile an ONNX file.

    Raises:
        InputError: TensorRT cannot parse or build it.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise InputError(f"TensorRT {trt.__version__} cannot read the graph: {reasons[:300]}")
    config = builder.create_builder_config()
    if precision == "fp16":
        config.set_flag(trt.BuilderFlag.FP16)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise InputError(f"TensorRT {trt.__version__} could not build an engine for this GPU")
    return bytes(engine)


class EnginePolicy:
    """A TensorRT engine as a function of numpy arrays; torch holds the device memory."""

    def __init__(self, trt: Any, torch: Any, engine: bytes, policy: OnnxPolicy) -> None:
        self._torch = torch
        runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = runtime.deserialize_cuda_engine(engine)
        self._context = self._engine.create_execution_context()
        shapes = {
            "observation": (policy.batch, policy.spec.n_obs),
            "noise": policy.noise.values.shape,
            "action": (policy.batch, policy.spec.n_act),
        }
        self._buffers = {name: torch.zeros(s, device="cuda") for name, s in shapes.items()}
        for name, buffer in self._buffers.items():
            self._context.set_tensor_address(name, buffer.data_ptr())

    def act_with(self, observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Like `OnnxPolicy.act_with`."""
        torch = self._torch
        self._buffers["observation"].copy_(
            torch.from_numpy(observation).reshape_as(self._buffers["observation"])
        )
        self._buffers["noise"].copy_(torch.from_numpy(noise).reshape_as(self._buffers["noise"]))
        stream = torch.cuda.current_stream()
        self._context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        action: np.ndarray = self._buffers["action"].cpu().numpy()
        return action


def largest_difference(engine: EnginePolicy, policy: OnnxPolicy) -> float:
    """Largest action difference between engine and ONNX file on random inputs."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(PARITY_ROWS // policy.batch):
        obs = rng.standard_normal((policy.batch, policy.spec.n_obs), dtype=np.float32)
        noise = rng.standard_normal(policy.noise.values.shape, dtype=np.float32)
        difference = engine.act_with(obs, noise) - policy.act_with(obs, noise)
        worst = max(worst, float(np.abs(difference).max()))
    return worst


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m export.tensorrt", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("policy", type=Path, help="a file written by python -m export.onnx")
    parser.add_argument("--precision", choices=sorted(LIMITS), default="fp32")
    parser.add_argument("--cache", type=Path, default=ENGINE_CACHE)
    options = parser.parse_args(argv)
    policy = OnnxPolicy(options.policy)
    trt = require("tensorrt", "compiling for a GPU")
    torch = require("torch", "running an engine")
    if not torch.cuda.is_available():
        raise InputError("compiling for a GPU needs an NVIDIA GPU, none is visible here")
    gpu = torch.cuda.get_device_name()
    key = cache_key(gpu, trt.__version__, options.precision, policy.file.policy_digest)
    path = options.cache / f"{policy.spec.name}-{options.precision}-{key}.engine"
    cached = path.exists()
    engine = (
        path.read_bytes()
        if cached
        else build_engine(trt, options.policy.read_bytes(), options.precision)
    )
    error = largest_difference(EnginePolicy(trt, torch, engine, policy), policy)
    limit = LIMITS[options.precision]
    print(f"engine     {gpu}, TensorRT {trt.__version__}, {options.precision}")
    print(f"parity     {error:.1e} to the ONNX file on {PARITY_ROWS} inputs, limit {limit:.0e}")
    if not error <= limit:
        print(f"error: parity: {error:.1e} is above {limit:.0e}; nothing written", file=sys.stderr)
        return 1
    if not cached:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(engine)
    print(f"{'cached' if cached else 'written':11s}{path}")
    return 0


if __name__ == "__main__":
    if not __package__:
        sys.exit("error: run it as a module: python -m export.tensorrt policy.onnx")
    run_command(main)
