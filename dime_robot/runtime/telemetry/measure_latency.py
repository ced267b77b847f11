"""Measure a policy's latency on this machine: `python -m dime_robot.runtime.certify policy.onnx`.

Needs only numpy, pydantic and ONNX Runtime, so it can measure on the robot itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dime_robot.runtime.io import option_types
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.certificate import LatencyCertificate
from dime_robot.runtime.policy.onnx_policy import PROVIDERS, OnnxPolicy, import_onnxruntime
from dime_robot.runtime.telemetry.machine import cpu_model

WARM_CALLS, COLD_CALLS = 2000, 300
MIN_CALLS, MAX_CALLS = 100, 1_000_000
PERCENTILE = 99.0  # [%] judged by a budget
MIN_BUDGET, MAX_BUDGET = 1e-9, 1e6  # [ms]
EVICTED_BYTES = 48 * 2**20  # touched before a cold call: more than a core's caches hold


def call_times(call: Callable[[], object], calls: int, evict: bool = False) -> np.ndarray:
    """Measure the duration of each call, shape (calls,) [ms]."""
    buffer = np.zeros(EVICTED_BYTES // 8) if evict else None
    times = np.empty(calls)
    for i in range(calls):
        if buffer is not None:
            buffer += 1.0
        start = time.perf_counter_ns()
        call()
        times[i] = time.perf_counter_ns() - start
    return times / 1e6


def measure_latency(
    policy: OnnxPolicy, warm_calls: int = WARM_CALLS, cold_calls: int = COLD_CALLS
) -> LatencyCertificate:
    """Measure warm and cold latency of `policy.act` on random observations."""
    rng = np.random.default_rng(0)
    shape = (policy.batch, policy.spec.n_obs)
    observation = rng.standard_normal(shape[1:] if policy.batch == 1 else shape, dtype=np.float32)

    def call() -> None:
        policy.act(observation)

    call_times(call, 50)  # first calls allocate and warm up
    warm = call_times(call, warm_calls)
    cold = call_times(call, cold_calls, evict=True)
    figures = {
        f"{name}_{label}": float(np.percentile(times, share))
        for name, times in (("warm", warm), ("cold", cold))
        for label, share in (("p50", 50), ("p99", 99), ("max", 100))
    }
    return LatencyCertificate(
        cpu=cpu_model(),
        threads=1,
        provider=policy.provider,
        runtime=import_onnxruntime().__version__,
        batch=policy.batch,
        calls=warm_calls,
        **figures,
    )


def budget_problem(
    latency: LatencyCertificate, budget_ms: float, percentile: float, steps: int
) -> str | None:
    """Return why a latency exceeds its budget, and a remedy; None: it does not exceed it.

    The cold latency counts, since other code uses the caches between two control steps.

    Args:
        latency: as measured.
        budget_ms: longest duration of a call [ms].
        percentile: 50, 99 or 100, the largest [%].
        steps: diffusion steps of the policy.
    """
    measured = {50: latency.cold_p50, 99: latency.cold_p99, 100: latency.cold_max}[int(percentile)]
    if measured <= budget_ms:
        return None
    share = budget_ms / measured
    possible = int(steps * share)
    advice = (
        f"about {possible} diffusion steps instead of {steps}"
        if possible >= 2
        else f"an actor about {max(2, round(share**-0.5))} times narrower"
    )
    return (
        f"p{percentile:g} is {measured:.3f} ms with cold caches, over the budget of"
        f" {budget_ms:g} ms on {latency.cpu}; {advice} would hold it, or a faster core"
    )


def describe(latency: LatencyCertificate) -> list[str]:
    """Format the certificate in a few lines."""
    lines = [
        f"machine    {latency.cpu}, {latency.threads} thread, {latency.provider},"
        f" ONNX Runtime {latency.runtime}, batch {latency.batch}",
        f"warm       p50 {latency.warm_p50:.3f} ms  p99 {latency.warm_p99:.3f}"
        f"  max {latency.warm_max:.3f}",
        f"cold       p50 {latency.cold_p50:.3f} ms  p99 {latency.cold_p99:.3f}"
        f"  max {latency.cold_max:.3f}",
    ]
    if latency.ratio_to_torch is not None:
        lines.append(f"torch      {1 / latency.ratio_to_torch:.1f} times as long (eager, warm)")
    return lines


@dataclass(frozen=True)
class Budget:
    """Upper bound on the duration of a call."""

    milliseconds: float
    percentile: float = PERCENTILE


def add_budget_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all commands with a budget have."""
    parser.add_argument(
        "--budget-ms",
        type=option_types.float_in(MIN_BUDGET, MAX_BUDGET),
        help="longest duration of a call with cold caches [ms]: exit code 1 above it; by default"
        " there is no limit",
    )
    parser.add_argument(
        "--percentile",
        type=float,
        choices=(50, 99, 100),
        help="the percentile of the calls that --budget-ms limits [%%], 100: the longest call; by"
        f" default {PERCENTILE:g}",
    )


def budget_of(options: argparse.Namespace) -> Budget | None:
    """Return the budget that the options of `add_budget_options` set; None: there is none.

    Raises:
        InputError: there is a percentile and no budget.
    """
    if options.budget_ms is not None:
        return Budget(options.budget_ms, options.percentile or PERCENTILE)
    if options.percentile is not None:
        raise InputError(
            f"--percentile {options.percentile:g}: expected --budget-ms with it, got none: without"
            " a budget no percentile is judged"
        )
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = Parser(
        "python -m dime_robot.runtime.certify", "Measure a policy's latency on this machine."
    )
    add = parser.add_argument
    add("policy", type=Path, help="a file written by python -m export.onnx")
    text = "what runs the policy; auto: the fastest that this ONNX Runtime has"
    add("--provider", choices=[*PROVIDERS, "auto"], default="cpu", help=text)
    add(
        "--calls",
        type=option_types.int_in(MIN_CALLS, MAX_CALLS),
        default=WARM_CALLS,
        help=f"calls with warm caches that are timed, {MIN_CALLS} to {MAX_CALLS:,}; those with cold"
        f" caches are always {COLD_CALLS}",
    )
    add("--json", action="store_true", help="print the certificate as one JSON object")
    add_budget_options(parser)
    options = parser.parse_args(argv)
    budget = budget_of(options)
    policy = OnnxPolicy(options.policy, provider=options.provider)
    latency = measure_latency(policy, options.calls)
    if options.json:
        print(latency.model_dump_json())
    else:
        period = 1000 / policy.spec.rate
        print(f"policy     {policy.spec.name}, {policy.spec.rate:g} Hz ({period:g} ms a step)")
        print("\n".join(describe(latency)))
        if interpolation := policy.file.interpolation:
            print(f"commands   interpolation {interpolation.describe(policy.spec)}")
    if budget is not None:
        steps = policy.file.diffusion_steps
        problem = budget_problem(latency, budget.milliseconds, budget.percentile, steps)
        if problem:
            print(f"error: {problem}", file=sys.stderr)
            return 1
        if not options.json:
            print(f"budget     p{budget.percentile:g} within {budget.milliseconds:g} ms")
    return 0
