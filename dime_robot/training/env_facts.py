"""EnvFacts: what a run has to know of its environment, which may be in another process."""

from __future__ import annotations

from dataclasses import dataclass

from dime_robot.envs import Env, spec_of, time_limit
from dime_robot.runtime.contract.interpolation import Interpolation
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.sim.config.curriculum import LevelConfig
from dime_robot.training.curriculum import levels_of


@dataclass(frozen=True)
class EnvFacts:
    """The facts about an environment.

    Attributes:
        spec: its contract.
        time_limit: of an episode [steps]; None: there is none.
        levels: of its task's curriculum; empty: there are none.
        task_digest: of a robot task's content; None: it is no robot task.
        interpolation: of a robot's commands; None: it is no robot task.
    """

    spec: PolicySpec
    time_limit: int | None
    levels: tuple[LevelConfig, ...]
    task_digest: str | None
    interpolation: Interpolation | None


def facts_of(env: Env, name: str) -> EnvFacts:
    """Return the facts about an environment.

    Args:
        env: the environment.
        name: of it, in settings and files.
    """
    digest = getattr(env.unwrapped, "task_digest", None)
    interpolation = getattr(env.unwrapped, "interpolation", None)
    return EnvFacts(
        spec_of(env, name),
        time_limit(env),
        levels_of(env),
        digest if isinstance(digest, str) else None,
        interpolation if isinstance(interpolation, Interpolation) else None,
    )
