"""Training on Ray against training here, and what limits it: `python -m benchmarks.ray_training`.

    python -m benchmarks.ray_training returns      # Pendulum-v1, here and with 2 and 4 workers
    python -m benchmarks.ray_training speed        # transitions per second, and a projection

`returns` trains until an evaluation of five episodes is above -250, and counts wall time and steps.

`speed` trains for some seconds in an environment of a given width whose step takes a given time,
with many updates per transition and with hardly any. From the second kind comes r, the
transitions per second of one worker, from both together the time of an update t:

    S(W) = min(W r, 1 / (u t))

with u updates per transition. For 64 workers it assumes that every worker and the learner have a
core each, that the network carries S transitions, and that taking a transition into the replay
costs the learner nothing beside its updates. Where workers and learner share cores, as on a small
machine, r and 1 / t are too low, and the number of workers that the learner can use is uncertain.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import numpy.typing as npt

from dime_robot.cluster.connection import connected
from dime_robot.cluster.remote_rollouts import RemoteRollouts
from dime_robot.learning.config import TrainConfig
from dime_robot.results.tables import text_table
from dime_robot.training.logger import RunLogger
from dime_robot.training.presets import preset_config
from dime_robot.training.run import EvaluationEvent
from dime_robot.training.run_request import RunRequest
from dime_robot.training.start import choose_device, start_run
from dime_robot.training.train_policy import train_policy

GOOD = -250.0  # return of Pendulum-v1
SMALL = {"actor_width": 64, "critic_width": 128}


class Busy(gymnasium.Env[npt.NDArray[np.float32], npt.NDArray[np.float32]]):
    """Observations of some width, and steps that take some CPU time.

    Args:
        width: of the observation.
        seconds: of a step [s].
    """

    action_space = gymnasium.spaces.Box(-1, 1, (6,), np.float32)
    spec = None

    def __init__(self, width: int, seconds: float) -> None:
        self.observation_space = gymnasium.spaces.Box(-9, 9, (width,), np.float32)
        self._seconds, self._count = seconds, 0

    def _obs(self) -> npt.NDArray[np.float32]:
        assert self.observation_space.shape is not None
        return self.np_random.normal(size=self.observation_space.shape).astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._count = 0
        return self._obs(), {}

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        end = time.thread_time() + self._seconds
        while time.thread_time() < end:
            pass
        self._count += 1
        return self._obs(), 0.0, False, self._count >= 200, {}


class Speed(NamedTuple):
    """What was measured over some seconds."""

    per_second: float  # transitions
    updates: float  # per second
    staleness: float  # versions


def speed(
    ray: Any, workers: int, each: int, width: int, step: float, ratio: float, seconds: float
) -> Speed:
    """Train for some seconds with workers that run already; the first messages do not count."""
    env = functools.partial(Busy, width, step)
    config = TrainConfig.model_validate(
        {
            **preset_config("tiny", "Pendulum-v1").model_dump(),
            **SMALL,
            "env": "python:Busy",
            "ray": True,
            "workers": workers,
            "num_envs": workers * each,
            "update_to_data": ratio,
            "random_steps": 1,
            "steps": 10**9,
            "eval_interval": 10**9,
            "checkpoint_interval": 10**9,
            "log_interval": 10**9,
            "buffer_size": 100_000,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        request = RunRequest(config, out=Path(folder) / "run", env=env)
        run = start_run(request, choose_device("cpu"), RemoteRollouts.on(ray))
        with closing(run), closing(RunLogger(run.files, config.steps, 0, quiet=True)) as logger:
            rollouts = run.rollouts
            assert isinstance(rollouts, RemoteRollouts)
            while None in rollouts.places or run.step < 4 * workers * rollouts.rows:
                run._environment_step(logger)
            rollouts.figures()
            begin, before, updates = time.perf_counter(), run.step, run.agent.updates
            while time.perf_counter() - begin < seconds:
                run._environment_step(logger)
            took = time.perf_counter() - begin
            return Speed(
                (run.step - before) / took,
                (run.agent.updates - updates) / took,
                rollouts.figures()["ray/staleness"],
            )


def speeds(options: argparse.Namespace) -> None:
    rows, at_most, learner = [], [], []
    with connected(None, max(options.workers)) as ray:
        for width in options.widths:
            for workers in options.workers:
                for ratio in (options.ratio, 1e-5):
                    found = speed(
                        ray, workers, options.envs, width, options.step, ratio, options.seconds
                    )
                    rows.append(
                        [
                            str(width),
                            str(workers),
                            f"{ratio:g}",
                            f"{found.per_second:,.0f}",
                            f"{found.updates:.0f}",
                            f"{found.staleness:.1f}",
                        ]
                    )
                    print(*rows[-1], flush=True)
                    if ratio > 1e-5:
                        learner.append(found)
                    else:
                        at_most.append(found.per_second / workers)
    names = ["width", "workers", "updates per transition", "transitions/s", "updates/s", "versions"]
    print(text_table(names, rows))
    rate, updates = max(at_most), max(each.updates for each in learner)
    limit = updates / options.ratio
    print(
        f"one worker: r = {rate:,.0f} transitions/s; the learner: 1/t = {updates:,.0f} updates/s,"
        f" at most {limit:,.0f} transitions/s with u = {options.ratio:g}, as of {limit / rate:.1f}"
        " workers"
    )
    print(f"64 workers: min(64 r, 1 / (u t)) = {min(64 * rate, limit):,.0f} transitions/s")


def returns(options: argparse.Namespace) -> None:
    rows = []
    with connected(None, max(options.workers)) as ray:
        for workers in (0, *options.workers):
            settings: dict[str, Any] = {"num_envs": max(1, workers)}
            if workers:
                settings |= {
                    "ray": True,
                    "workers": workers,
                    "rollouts": RemoteRollouts.on(ray),
                }
            reached: list[EvaluationEvent] = []

            def until_good(
                event: EvaluationEvent, reached: list[EvaluationEvent] = reached
            ) -> bool:
                reached.append(event)
                return event.evaluation.mean < GOOD

            begin = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                train_policy(
                    "Pendulum-v1",
                    preset="tiny",
                    out=Path(folder) / "run",
                    quiet=True,
                    callback=until_good,
                    seed=options.seed,
                    steps=options.steps,
                    **settings,
                )
            took = time.perf_counter() - begin
            last = reached[-1]
            row = [str(workers or "here"), f"{last.step:,}", f"{last.evaluation.mean:.0f}"]
            rows.append([*row, f"{took:.0f}"])
            print(*rows[-1], flush=True)
    print(text_table(["workers", "steps", "return", "wall time [s]"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["returns", "speed"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=15_000)
    parser.add_argument("--widths", type=int, nargs="+", default=[48])
    parser.add_argument("--envs", type=int, default=4, help="environments of a worker")
    parser.add_argument("--step", type=float, default=0.0005, help="CPU time of a step [s]")
    parser.add_argument("--ratio", type=float, default=0.5, help="updates per transition")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    {"returns": returns, "speed": speeds}[options.what](options)


if __name__ == "__main__":
    main()
