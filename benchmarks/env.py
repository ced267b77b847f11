"""How fast the simulated robots are, beside the learner's update.

    python benchmarks/env.py [--steps 2000] [--json]

Uniformly random actions, one thread, all tasks interleaved in this process. `share` is the part of
a training step (environment step and updates, preset tiny) that the environment takes.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median

import numpy as np
import torch

from dime_robot.envs import Env, make_env, sizes_of, spec_of
from dime_robot.learning.config import TrainConfig
from dime_robot.learning.dime import DIME
from dime_robot.learning.replay_buffer import Batch
from dime_robot.training.presets import preset_config
from dime_robot.training.provenance import provenance

TASKS = ("sim:cartpole", "sim:go2-walk", "sim:go2")
CHUNK = 200  # steps of a task before the next one's turn


def steps_in(env: Env, count: int, random: np.random.Generator) -> float:
    """Return the seconds per step, resets included."""
    n_act = env.action_space.shape[0]  # type: ignore[index]
    actions = random.uniform(-1, 1, (count, n_act)).astype(np.float32)
    began = time.perf_counter()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return (time.perf_counter() - began) / count


def updates_in(agent: DIME, config: TrainConfig, sizes: tuple[int, int], count: int) -> float:
    """Return the seconds for the updates of one environment step."""
    size, (n_obs, n_act) = max(1, int(config.update_to_data)) * config.batch_size, sizes
    batch = Batch(
        torch.randn(size, n_obs),
        torch.rand(size, n_act) * 2 - 1,
        torch.randn(size, n_obs),
        torch.rand(size),
        torch.zeros(size),
    )
    began = time.perf_counter()
    for _ in range(count):
        agent.update(batch)
    return (time.perf_counter() - began) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    envs = {name: make_env(name) for name in TASKS}
    configs = {name: preset_config("tiny", name) for name in TASKS}
    agents = {}
    for name, env in envs.items():
        env.reset(seed=0)
        agents[name] = DIME(spec_of(env, name), configs[name], torch.device("cpu"))
        updates_in(agents[name], configs[name], sizes_of(env), 3)  # warm up
    stepped: dict[str, list[float]] = {name: [] for name in TASKS}
    updated: dict[str, list[float]] = {name: [] for name in TASKS}
    for _ in range(max(1, options.steps // CHUNK)):
        for name in TASKS:
            stepped[name].append(steps_in(envs[name], CHUNK, random))
            updated[name].append(updates_in(agents[name], configs[name], sizes_of(envs[name]), 5))
    rows = {}
    for name in TASKS:
        step, update = median(stepped[name]), median(updated[name])
        rows[name] = {"steps_per_second": 1 / step, "update_ms": 1e3 * update,
                      "share": step / (step + update)}  # fmt: skip
    if options.json:
        print(json.dumps({"tasks": rows, "provenance": provenance()}))
        return
    for name, row in rows.items():
        print(
            f"{name:14s} {row['steps_per_second']:8.0f} steps/s   updates of a step"
            f" {row['update_ms']:6.1f} ms   share of the environment {row['share']:.1%}"
        )


if __name__ == "__main__":
    main()
