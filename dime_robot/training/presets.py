"""Default settings of a run: those of a preset, overridden by those of the task."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from dime_robot.learning.config import PresetName, TrainConfig
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import load_robot_task, require_task

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
# 16 environments side by side on the networks of `tiny`: in the same time seven to eight times the
# data of one environment, and as many updates
PRESETS["parallel"] = {
    **PRESETS["tiny"],
    "num_envs": 16,
    "update_to_data": 0.125,
    "batch_size": 256,
    "random_steps": 4000,
    "buffer_size": 600_000,
    "checkpoint_interval": 16_000,
    "log_interval": 1_600,
    "eval_interval": 8_000,
    "steps": 120_000,
}
# As FlashSAC trains on simulators with a GPU (arXiv 2604.04539): 1,024 environments, 2 updates of
# batch 2,048 per step of all, rewards of 3 steps, 50 million steps, a replay of 10 million. The
# networks are of the sizes of `laptop`. No machine with a GPU has run it yet.
PRESETS["parallel-gpu"] = {
    **PRESETS["laptop"],
    "threads": 0,
    "diffusion_steps": 8,
    "dt_init": 0.2,
    "alpha_init": 0.05,
    "num_envs": 1024,
    "update_to_data": 1 / 512,
    "n_step": 3,
    "batch_size": 2048,
    "random_steps": 100_000,
    "buffer_size": 10_000_000,
    "checkpoint_interval": 1_024_000,
    "log_interval": 51_200,
    "eval_interval": 512_000,
    "steps": 50_000_000,
}
# preset -> factor on the steps that a task states for itself, which are those of one environment
DATA = {"parallel": 8, "parallel-gpu": 256}

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
        config = load_robot_task(env.removeprefix("sim:"))[0]
        require_task(config)
        if config.training.has_atoms:
            return config.training.settings()
        from dime_robot.sim.tasks.task import training_settings  # loads MuJoCo

        return training_settings(config)
    return next(settings for pattern, settings in TASKS if fnmatchcase(env, pattern))


def preset_config(preset: str, env: str) -> TrainConfig:
    """Make the settings of a preset, overridden by those of the task.

    Raises:
        InputError: no such preset, or a robot's file that cannot be used.
    """
    if preset not in PRESETS:
        raise InputError(f"--preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    task = dict(task_settings(env))
    for name in {"steps", "eval_interval"} & task.keys():
        task[name] *= DATA.get(preset, 1)
    return TrainConfig.model_validate({**PRESETS[preset], **task, "env": env, "preset": preset})
