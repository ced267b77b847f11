"""CPU time to a walking Go2, one environment against sixteen: `python -m benchmarks.parallel_walk`.

`sim:go2-walk` with preset `tiny` (one environment) and with preset `parallel` (16), each until an
evaluation of five episodes is at most 0.1 m/s off, with evaluations after equal numbers of updates.
Runs of both kinds alternate, each in a process of its own on one thread; the time is that of the
process, evaluations included. A run that never gets there counts with its whole time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ENV, METRIC, CLOSE = "sim:go2-walk", "velocity_error", 0.1  # [m/s]
PRESETS = ("tiny", "parallel")


def one(preset: str, seed: int, steps: int | None) -> dict[str, Any]:
    """Train once; return CPU time, steps and error of the evaluation that ended it.

    Args:
        preset: of the run.
        seed: of the run.
        steps: at most; None: the preset's.
    """
    from dime_robot.training.run import EvaluationEvent
    from dime_robot.training.train_policy import train_policy

    last: dict[str, Any] = {}

    def close_enough(event: EvaluationEvent) -> bool:
        error = event.evaluation.metrics[METRIC]
        seconds = time.process_time() - began
        walks = event.step > 0 and error <= CLOSE and event.evaluation.survival == 1.0
        last.update(cpu_seconds=seconds, steps=event.step, error=error, walks=bool(walks))
        return not walks

    settings: dict[str, Any] = {} if steps is None else {"steps": steps}
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        train_policy(
            ENV,
            preset=preset,
            out=Path(folder, "run"),
            callback=close_enough,
            quiet=True,
            seed=seed,
            **settings,
        )
    return {"preset": preset, "seed": seed, **last}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="at most, of one environment")
    parser.add_argument("--one", nargs=2, metavar=("PRESET", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        preset, seed = given.one
        steps = given.steps if given.steps is None or preset == "tiny" else 8 * given.steps
        print(json.dumps(one(preset, int(seed), steps)), flush=True)
        return
    found: dict[str, list[float]] = {preset: [] for preset in PRESETS}
    print("| seed | preset | CPU time [s] | steps | velocity error [m/s] | walks |")
    print("| --- | --- | --- | --- | --- | --- |")
    for seed in given.seeds:
        for preset in PRESETS:
            words = [sys.executable, "-m", "benchmarks.parallel_walk", "--one", preset, str(seed)]
            if given.steps is not None:
                words += ["--steps", str(given.steps)]
            run = subprocess.run(words, check=True, capture_output=True, text=True)
            row = json.loads(run.stdout.splitlines()[-1])
            found[preset].append(row["cpu_seconds"])
            print(
                f"| {seed} | {preset} | {row['cpu_seconds']:.0f} | {row['steps']:,} |"
                f" {row['error']:.3f} | {'yes' if row['walks'] else '**no**'} |",
                flush=True,
            )
    one_env, many = (float(np.mean(found[preset])) for preset in PRESETS)
    ratio = many / one_env
    print(f"\nmean: {one_env:.0f} s with one environment, {many:.0f} s with 16: {ratio:.2f}")


if __name__ == "__main__":
    main()
