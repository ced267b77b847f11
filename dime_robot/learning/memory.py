"""The minimum memory of a run, compared with the machine's before anything is allocated."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from dime_robot.learning.config import TrainConfig
from dime_robot.learning.replay_file import row_sizes
from dime_robot.runtime.io.errors import InputError

FLOAT = 4  # [bytes]
PER_WEIGHT = 4 * FLOAT  # the weight, its gradient, Adam's two moments
CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def memory_needed(
    config: TrainConfig, n_obs: int, n_act: int, n_privileged: int = 0
) -> dict[str, int]:
    """Return option -> minimum bytes that it needs for the whole run.

    Args:
        config: sizes.
        n_obs: length of an observation of the policy.
        n_act: length of an action.
        n_privileged: numbers that only the critics see.
    """
    row = sum(row_sizes(n_obs + n_privileged, n_act))

    def weights(inputs: int, width: int, depth: int, outputs: int) -> int:
        return inputs * width + (depth - 1) * width * width + width * outputs

    inputs = n_obs + n_privileged + n_act
    critic = weights(inputs, config.critic_width, config.critic_depth, config.atoms)
    actor = weights(n_obs + n_act, config.actor_width, config.actor_depth, n_act)
    # activations stored for gradients: both critics on (s, a) and (s', a'), all diffusion steps
    steps = config.diffusion_steps if config.actor == "diffusion" else 1
    activations = config.batch_size * (
        4 * config.critic_width * config.critic_depth
        + steps * config.actor_width * config.actor_depth
    )
    updates = max(1.0, config.update_to_data * config.num_envs)  # between two environment steps
    sampled = math.ceil(updates) * config.batch_size * config.n_step * row
    return {
        "--buffer-size": config.buffer_size * row * FLOAT,
        "--critic-width": 2 * critic * PER_WEIGHT,
        "--actor-width": actor * PER_WEIGHT,
        "--batch-size": (activations + sampled) * FLOAT,
    }


def memory_of(device: torch.device) -> int:
    """Return all memory of a device, or what this process may use of the machine's [bytes]."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([total, *(limit for path in CGROUP_LIMITS if (limit := _limit_in(path)))])


def _limit_in(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def require_memory(
    config: TrainConfig, n_obs: int, n_act: int, device: torch.device, n_privileged: int = 0
) -> None:
    """Refuse sizes that need more memory than the device has.

    Args:
        config: sizes.
        n_obs: length of an observation of the policy.
        n_act: length of an action.
        device: of the run.
        n_privileged: numbers that only the critics see.

    Raises:
        InputError: with the option that needs most, its memory, and the available memory.
    """
    needed = memory_needed(config, n_obs, n_act, n_privileged)
    available = memory_of(device)
    total = sum(needed.values())
    if total <= available:
        return
    option, largest = max(needed.items(), key=lambda item: item[1])
    where = "this machine" if device.type == "cpu" else str(device)
    value = getattr(config, option.removeprefix("--").replace("-", "_"))
    advice = "a smaller one"
    if option == "--buffer-size":
        rest = max(0, available - (total - largest))
        advice = f"{rest * value // largest:,} or fewer"
    raise InputError(
        f"{option} {value}: with {n_obs + n_privileged:,} observations and {n_act:,} actions it"
        f" needs {largest / 1e9:,.1f} GB (the run {total / 1e9:,.1f} GB), {where} has"
        f" {available / 1e9:,.1f} GB; expected {advice}"
    )
