"""How fast the simulated robots are in this tree and in another one, step by step in turns.

    git worktree add ../before main
    python benchmarks/env_against.py ../before [--tasks sim:go2 ...] [--steps 2000] [--json]

One process for each tree, each with one thread; while one steps the other waits, and both take the
same uniformly random actions. Their own CPU time counts, and of many short times the lower
quartile: other processes on the machine empty the caches, which slows all of the code, and some of
it more. `MuJoCo` is the time within `mj_step`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import quantiles
from typing import Any

HERE = Path(__file__).resolve().parents[1]
TASKS = ("sim:go2-walk", "sim:go2", "sim:go2-wide", "sim:cartpole")
CHUNK = 50  # steps of a tree before the other one's turn


class Stepper:
    """A task, stepped in the process of one tree."""

    def __init__(self, task: str) -> None:
        import numpy as np

        from dime_robot.envs import make_env

        self._env = make_env(task)
        self._env.reset(seed=0)
        self._random = np.random.default_rng(0)
        self._actions = (CHUNK, *(self._env.action_space.shape or ()))

    def chunk(self) -> float:
        """Return the CPU time of a step, resets included [s]."""
        actions = self._random.uniform(-1, 1, self._actions).astype("float32")
        began = time.process_time()
        for action in actions:
            _, _, terminated, truncated, _ = self._env.step(action)
            if terminated or truncated:
                self._env.reset()
        return (time.process_time() - began) / CHUNK

    def mujoco(self) -> float:
        """Return the CPU time within `mj_step` of a step [s]."""
        import mujoco

        untimed, spent = mujoco.mj_step, 0

        def timed(*args: Any, **options: Any) -> None:
            nonlocal spent
            began = time.thread_time_ns()
            untimed(*args, **options)
            spent += time.thread_time_ns() - began

        mujoco.mj_step = timed
        try:
            self.chunk()
        finally:
            mujoco.mj_step = untimed
        return 1e-9 * spent / CHUNK


def work() -> None:
    """Answer each line, the name of a task, with the times of one chunk."""
    steppers: dict[str, Stepper] = {}
    for line in sys.stdin:
        task = line.strip()
        if task not in steppers:
            steppers[task] = Stepper(task)
            steppers[task].chunk()  # warm up
        stepper = steppers[task]
        print(json.dumps([stepper.chunk(), stepper.mujoco()]), flush=True)


def start(tree: Path) -> subprocess.Popen[str]:
    """Start the process of a tree."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), "--work"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tree,
        env={**os.environ, **one_thread, "PYTHONPATH": str(tree)},
    )


def query(process: subprocess.Popen[str], task: str) -> list[float]:
    """Return the time of a step, and of it within MuJoCo [s]."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{task}\n")
    process.stdin.flush()
    response: list[float] = json.loads(process.stdout.readline())
    return response


def line(name: str, row: Mapping[str, Mapping[str, float]]) -> str:
    """Return a line of the table."""
    parts = [
        f"{tree} {each['steps_per_second']:6.0f} steps/s (MuJoCo {each['mujoco_us']:4.0f} us,"
        f" the rest {each['rest_us']:4.0f} us)"
        for tree, each in row.items()
    ]
    ratio = row["this"]["steps_per_second"] / row["other"]["steps_per_second"]
    return f"{name:16s} {'   '.join(parts)}   {ratio:.2f} times"


def main() -> None:
    if sys.argv[1:] == ["--work"]:
        work()
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("other", type=Path, help="folder of the other tree")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    processes = {"other": start(options.other.resolve()), "this": start(HERE)}
    times: dict[tuple[str, str], list[list[float]]] = {}
    for _ in range(max(2, options.steps // CHUNK)):
        for task in options.tasks:
            for tree, process in processes.items():
                times.setdefault((task, tree), []).append(query(process, task))
    for process in processes.values():
        process.communicate()
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for (task, tree), found in times.items():
        step, mujoco = (quantiles(values)[0] for values in zip(*found, strict=True))
        rows.setdefault(task, {})[tree] = {
            "steps_per_second": 1 / step,
            "mujoco_us": 1e6 * mujoco,
            "rest_us": 1e6 * (step - mujoco),
        }
    if options.json:
        print(json.dumps(rows))
        return
    for task, row in rows.items():
        print(line(task, row))


if __name__ == "__main__":
    main()
