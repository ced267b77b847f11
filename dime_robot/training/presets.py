"""Default settings of a run: those of a preset, overridden by those of the task."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from dime_robot.learning.config import PresetName, TrainConfig
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import load_robot_task

PRESETS: dict[PresetName, dict[str, Any]] = {
    # the paper's sizes; meant for a GPU
    "official": {},
    # learns small tasks on a CPU in an hour or two
    "laptop": {
        "threads": 1,
        "steps": 100_000,
        "actor_width": 128,
        "critic_width": 256,
        "checkpoint_interval": 1000,
        "eval_interval": 2500,
        "buffer_size": 300_000,
    },
    # minutes on one core. Half the steps with twice dt: the same total diffusion time.
    "tiny": {
        "device": "cpu",  # for such small networks a GPU spends most time on kernel launches
        "threads": 1,
        "diffusion_steps": 8,
        "dt_init": 0.2,
        "actor_width": 64,
        "actor_depth": 2,
        "actor_lr": 1e-3,
        "critic_width": 128,
        "critic_lr": 1e-3,
        "alpha_init": 0.05,
        "alpha_lr": 3e-3,
        "batch_size": 128,
        "random_steps": 500,
        "checkpoint_interval": 500,
        "eval_interval": 1000,
        "log_interval": 100,
        "buffer_size": 300_000,
        "steps": 15_000,
    },
}

# Settings that depend on the task, first match wins: the atoms must contain its discounted soft
# returns in units of the scaled reward. A robot's task has them in its own file (`training:`).
TASKS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("dm_control/*", {"v_min": -200.0, "v_max": 200.0}),
    ("Pendulum-v1", {"reward_scale": 0.1, "v_min": -100.0, "v_max": 20.0}),
    ("InvertedPendulum-v*", {"v_min": 0.0, "v_max": 120.0}),
    ("*", {"v_min": -1600.0, "v_max": 1600.0}),
)


def task_settings(env: str) -> dict[str, Any]:
    """Return the settings of this environment, for every preset.

    Raises:
        InputError: a robot's file that cannot be used.
    """
    if env.startswith("sim:"):
        return load_robot_task(env.removeprefix("sim:"))[0].training_settings()
    return next(settings for pattern, settings in TASKS if fnmatchcase(env, pattern))


def preset_config(preset: str, env: str) -> TrainConfig:
    """Make the settings of a preset, overridden by those of the task.

    Raises:
        InputError: no such preset, or a robot's file that cannot be used.
    """
    if preset not in PRESETS:
        raise InputError(f"--preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    return TrainConfig.model_validate(
        {**PRESETS[preset], **task_settings(env), "env": env, "preset": preset}
    )
