"""What only the critics see in a run (`--asymmetric-critic`), as its checkpoints record it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gymnasium
from pydantic import Field

from dime_robot.runtime.contract.policy_spec import StrictModel
from dime_robot.runtime.io.errors import InputError


class PrivilegedTerm(StrictModel):
    """A term of `task.privileged`."""

    name: str = Field(max_length=200)
    size: int = Field(gt=0, lt=2**31, description="how many numbers it has")
    entry: str = Field(max_length=100_000, description="its term and parameters, as JSON")


PrivilegedTerms = tuple[PrivilegedTerm, ...]


def privileged_terms(env: gymnasium.Env[Any, Any]) -> PrivilegedTerms:
    """Return what an environment's observations have after those of the contract, in its order.

    Args:
        env: made with `privileged=True`.
    """
    from dime_robot.sim.robot_env import RobotEnv

    robot = env.unwrapped
    assert isinstance(robot, RobotEnv) and robot.config.task is not None
    entries = robot.config.task.privileged
    return tuple(
        PrivilegedTerm(
            name=name, size=size, entry=json.dumps(entries[name].model_dump(), sort_keys=True)
        )
        for name, size in robot.privileged_sizes.items()
    )


def total(terms: Sequence[PrivilegedTerm]) -> int:
    """Return how many numbers some terms have together."""
    return sum(term.size for term in terms)


def require_same(had: PrivilegedTerms, now: PrivilegedTerms, where: str) -> None:
    """Refuse other values than those that a run's critics and replay know.

    Args:
        had: in its checkpoint.
        now: in the environment.
        where: the run, for the message.

    Raises:
        InputError: they differ, with the first difference.
    """
    if had == now:
        return
    before, after = [term.name for term in had], [term.name for term in now]
    if before != after:
        expected, got = f"the terms {before}", f"{after}"
    else:
        old, new = next((a, b) for a, b in zip(had, now, strict=True) if a != b)
        expected = f"{old.name} with {old.size} numbers of {old.entry}"
        got = f"{new.size} of {new.entry}"
    raise InputError(
        f"{where}: task.privileged: expected what its critics have learned from, {expected}, got"
        f" {got}: put that back, or go on in a new run with --init, whose critics start anew"
    )
