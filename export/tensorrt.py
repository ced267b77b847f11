"""Build a policy's TensorRT engine ahead of time: `python -m export.tensorrt policy.onnx`.

Run it on the machine that will run the policy. It opens the file with ONNX Runtime's TensorRT
provider exactly as policy_node does with `provider:=tensorrt`, which puts the engine into the cache
that policy_node reads (`engine_cache`), and compares its actions with those of the CPU. An engine
is valid for one policy, GPU, TensorRT and ONNX Runtime.

Not run on a GPU so far, apart from its refusals: no test machine has had TensorRT (docs/export.md
lists what has been run).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dime_robot.runtime.io.command import run_command
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import (
    ENGINE_CACHE,
    PROVIDERS,
    OnnxPolicy,
    engine_key,
    import_onnxruntime,
)

PARITY_ROWS = 1000
LIMIT = 1e-4  # on the action difference to the CPU; the same as that to torch in an export


def require_provider() -> None:
    """Check that this ONNX Runtime has the TensorRT provider.

    Raises:
        InputError: it does not have the provider.
    """
    available = import_onnxruntime().get_available_providers()
    if PROVIDERS["tensorrt"] not in available:
        raise InputError(
            "building an engine needs an NVIDIA GPU, TensorRT 10 and an ONNX Runtime with its"
            f" TensorRT provider, this one has only {', '.join(available)}; on a workstation: pip"
            " uninstall onnxruntime, pip install '.[gpu]' 'tensorrt-cu12>=10,<11'; on a Jetson: the"
            " onnxruntime-gpu wheel made for its JetPack. The ONNX file runs without it"
        )


def largest_difference(first: OnnxPolicy, second: OnnxPolicy) -> float:
    """Return the largest action difference of two policies, on random inputs."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(max(1, PARITY_ROWS // first.batch)):
        obs = rng.standard_normal((first.batch, first.spec.n_obs), dtype=np.float32)
        noise = rng.standard_normal(first.noise.values.shape, dtype=np.float32)
        difference = np.abs(first.act_with(obs, noise) - second.act_with(obs, noise)).max()
        worst = max(worst, float(difference)) if np.isfinite(difference) else np.inf
    return worst


def built_engines(folder: Path) -> list[Path]:
    """List the engines in a folder.

    Raises:
        InputError: there is none.
    """
    found = sorted(folder.glob("*.engine"))
    if not found:
        raise InputError(
            f"expected ONNX Runtime to leave an engine in {folder}, it left none; see that the"
            " folder can be written"
        )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = Parser(
        "python -m export.tensorrt",
        "Build a policy's TensorRT engine ahead of time, on the machine that runs the policy.",
    )
    text = "a file written by python -m export.onnx"
    parser.add_argument("policy", type=Path, help=text)
    options = parser.parse_args(argv)
    reference = OnnxPolicy(options.policy)
    require_provider()
    key = engine_key(import_onnxruntime(), reference.file)
    folder = key.folder(ENGINE_CACHE)
    began = time.perf_counter()
    policy = OnnxPolicy(options.policy, provider="tensorrt")
    error = largest_difference(reference, policy)  # the first call may still build the engine
    seconds = time.perf_counter() - began
    engines = built_engines(folder)
    print(f"engine     {key.gpu}, TensorRT {key.tensorrt}, ONNX Runtime {key.onnxruntime}")
    print(f"parity     {error:.1e} to the CPU on {PARITY_ROWS} inputs, limit {LIMIT:.0e}")
    if not error <= LIMIT:
        for path in engines:
            path.unlink()
        print(f"error: parity: {error:.1e} is above {LIMIT:.0e}; engine removed", file=sys.stderr)
        return 1
    print(f"ready      {', '.join(map(str, engines))} ({seconds:.1f} s)")
    print(f"next       policy_node with policy:={options.policy} provider:=tensorrt")
    return 0


if __name__ == "__main__":
    if not __package__:
        sys.exit("error: run it as a module: python -m export.tensorrt policy.onnx")
    run_command(main)
