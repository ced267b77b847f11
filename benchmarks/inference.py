"""Latency of one action: the exported graph against torch eager and a plain export.

    python benchmarks/inference.py [--calls 400] [--json]

All variants of a size run interleaved in this process, one thread, official actor (3 x 256, N = 16)
with random weights. Ratios are to torch eager of the plain sampler. `ready` is a new process that
imports, loads and makes its first call, against one that imports numpy and ONNX Runtime and opens
an empty session.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from dime_robot.learning import diffusion
from dime_robot.learning.networks import ScoreNetwork
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.telemetry.measure_latency import EVICTED_BYTES
from dime_robot.training.provenance import provenance
from export.graph import build, fold

SIZES = [(17, 6), (48, 12), (105, 8), (223, 38), (348, 17)]


class PlainSampler(nn.Module):
    """The sampler by its definition, for `torch.onnx.export`."""

    def __init__(self, actor: ScoreNetwork) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, observation: Tensor, noise: Tensor) -> Tensor:
        eta = self.actor.step_sizes()
        x = diffusion.PRIOR_STD * noise[:, 0]
        for n in range(self.actor.steps):
            control = self.actor(x, observation, n)
            x = x + eta[n] * (-x / 6.25 + control) + torch.sqrt(2 * eta[n]) * noise[:, n + 1]
        return torch.tanh(x)


def actor_for(spec: PolicySpec) -> ScoreNetwork:
    """Make an actor of the official sizes, with a non-zero output layer."""
    torch.manual_seed(0)
    actor = ScoreNetwork(spec, width=256, depth=3, steps=16, dt=0.3)
    nn.init.normal_(actor.output.weight, std=1 / 16)
    return actor.eval()


def bound_session(model: bytes, obs: np.ndarray, noise: np.ndarray) -> Callable[[], None]:
    """Return a call with inputs and output at fixed addresses, like that of `OnnxPolicy`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if len(obs) == 1:
        options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    action = np.zeros((len(obs), noise.shape[2]), np.float32)
    binding = session.io_binding()
    for name, array in (("observation", obs), ("noise", noise)):
        binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    output = session.get_outputs()[0].name
    binding.bind_output(output, "cpu", 0, np.float32, action.shape, action.ctypes.data)
    keep = (obs, noise, action)

    def call(_: Any = keep) -> None:
        session.run_with_iobinding(binding)

    return call


def plain_graph(actor: ScoreNetwork, obs: np.ndarray, noise: np.ndarray) -> bytes:
    """Export the plain sampler with `torch.onnx.export`."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            PlainSampler(actor),
            (torch.from_numpy(obs), torch.from_numpy(noise)),
            file,
            input_names=["observation", "noise"],
            output_names=["action"],
            opset_version=20,
            dynamo=False,
        )
    return file.getvalue()


def variants(n_obs: int, n_act: int, batch: int) -> dict[str, Callable[[], Any]]:
    spec = PolicySpec.flat(f"{n_obs}x{n_act}", n_obs, n_act)
    actor = actor_for(spec)
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((batch, n_obs), dtype=np.float32)
    noise = rng.standard_normal((batch, actor.steps + 1, n_act), dtype=np.float32)
    eager, obs_t, noise_t = PlainSampler(actor), torch.from_numpy(obs), torch.from_numpy(noise)

    def torch_eager() -> None:
        with torch.no_grad():
            eager(obs_t, noise_t)

    return {
        "torch": torch_eager,
        "ort_plain": bound_session(plain_graph(actor, obs, noise), obs, noise),
        "ort_folded": bound_session(
            build(fold(actor, spec), batch).SerializeToString(), obs, noise
        ),
    }


def interleaved(calls: dict[str, Callable[[], Any]], count: int, evict: bool) -> dict[str, Any]:
    """Return p50 and p99 in milliseconds, with the variants called alternately."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    junk = np.zeros(EVICTED_BYTES // 8)
    for call in calls.values():
        for _ in range(10):
            call()
    for _ in range(count):
        for name, call in calls.items():
            if evict:
                junk += 1.0
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {
        name: {"p50": float(np.percentile(t, 50)), "p99": float(np.percentile(t, 99))}
        for name, t in times.items()
    }


def graph_nodes(n_obs: int, n_act: int) -> dict[str, int]:
    spec = PolicySpec.flat(f"{n_obs}x{n_act}", n_obs, n_act)
    actor = actor_for(spec)
    obs = np.zeros((1, n_obs), np.float32)
    noise = np.zeros((1, 17, n_act), np.float32)
    plain = onnx.load_from_string(plain_graph(actor, obs, noise))
    return {"plain": len(plain.graph.node), "folded": len(build(fold(actor, spec)).graph.node)}


READY = {
    "policy": """
import numpy as np
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
OnnxPolicy({path!r}).act(np.zeros({n_obs}, np.float32))
""",
    "empty": """
import numpy, onnxruntime
onnxruntime.InferenceSession({empty!r}, providers=["CPUExecutionProvider"])
""",
}
RSS = """
lines = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")))"""


def ready(policy: Path, repeats: int) -> dict[str, Any]:
    """Return the seconds until a new process's first action, and its resident memory [MB]."""
    from dime_robot.runtime.policy.onnx_policy import OnnxPolicy

    n_obs = OnnxPolicy(policy).spec.n_obs
    value = onnx.helper.make_tensor_value_info("x", 1, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    output = onnx.helper.make_tensor_value_info("y", 1, [1])
    graph = onnx.helper.make_graph([node], "empty", [value], [output])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.onnx"
        empty.write_bytes(model.SerializeToString())
        fields = {"path": str(policy), "n_obs": n_obs, "empty": str(empty)}
        seconds: dict[str, list[float]] = {name: [] for name in READY}
        memory: dict[str, float] = {}
        for _ in range(repeats):
            for name, code in READY.items():
                start = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", code.format(**fields) + RSS],
                    check=True, capture_output=True, text=True,
                )  # fmt: skip
                seconds[name].append(time.perf_counter() - start)
                memory[name] = float(done.stdout.split()[-1])
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {"seconds": median, "ratio": median["policy"] / median["empty"], "rss_mb": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--policy", type=Path, help="also measure how soon this file is ready")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {"machine": provenance(), "calls": options.calls, "sizes": {}}
    head = f"{'obs x act':10s} {'variant':11s} {'p50 ms':>8s} {'p99':>8s} {'cold p50':>9s}"
    head += f" {'batch 16':>9s} {'p50 / torch':>12s} {'p50 / plain':>12s}"
    if not options.json:
        print(head)
    for n_obs, n_act in SIZES:
        single, many = variants(n_obs, n_act, 1), variants(n_obs, n_act, 16)
        warm = interleaved(single, options.calls, evict=False)
        cold = interleaved(single, max(50, options.calls // 8), evict=True)
        batch = interleaved(many, max(50, options.calls // 8), evict=False)
        rows = {}
        for name, values in warm.items():
            rows[name] = {
                **values,
                "cold_p50": cold[name]["p50"],
                "cold_p99": cold[name]["p99"],
                "batch16_p50": batch[name]["p50"],
                "ratio_to_torch": values["p50"] / warm["torch"]["p50"],
                "ratio_to_plain": values["p50"] / warm["ort_plain"]["p50"],
            }
            if not options.json:
                row = rows[name]
                print(
                    f"{n_obs:>4d} x {n_act:<3d} {name:11s} {row['p50']:8.3f} {row['p99']:8.3f}"
                    f" {row['cold_p50']:9.3f} {row['batch16_p50']:9.3f}"
                    f" {row['ratio_to_torch']:12.3f} {row['ratio_to_plain']:12.3f}"
                )
        report["sizes"][f"{n_obs}x{n_act}"] = rows
    report["nodes"] = graph_nodes(48, 12)
    if options.policy:
        report["ready"] = ready(options.policy, 7)
    if options.json:
        print(json.dumps(report))
        return
    print(f"nodes: {report['nodes']}")
    if options.policy:
        times, memory = report["ready"]["seconds"], report["ready"]["rss_mb"]
        print(
            f"ready in {times['policy']:.3f} s, {report['ready']['ratio']:.2f} x an empty session"
            f" ({times['empty']:.3f} s); {memory['policy']:.0f} MB resident ({memory['empty']:.0f})"
        )


if __name__ == "__main__":
    main()
