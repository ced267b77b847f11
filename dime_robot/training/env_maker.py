"""EnvMaker: how a run makes its training environments, in any process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gymnasium
from gymnasium.envs.registration import EnvSpec

from dime_robot.envs import Env, EnvLike, make_env
from dime_robot.evaluation.rollout import STARTUP, seed_of
from dime_robot.runtime.policy.env_name import SIM
from dime_robot.sim.config.trust import is_allowed

TRAIN = 0  # key of training episodes among the seeds that are derived from the run's


@dataclass(frozen=True)
class EnvMaker:
    """Makes the training environments of a run by their numbers.

    Attributes:
        source: what `make_env` takes.
        seed: of the run.
        own_terms: whether the user permitted code of his own in the file of a robot task.
        registered: an id that the program registered with Gymnasium itself, for a process that
            does not know it.
        privileged: whether observations have what only critics see at their end.
    """

    source: EnvLike
    seed: int
    own_terms: bool = False
    registered: EnvSpec | None = None
    privileged: bool = False

    @classmethod
    def of(cls, source: EnvLike, seed: int, privileged: bool = False) -> EnvMaker:
        """Return a maker that needs nothing else of this process.

        Args:
            source: what `make_env` takes.
            seed: of the run.
            privileged: whether observations have what only critics see at their end.
        """
        if not isinstance(source, str):
            return cls(source, seed, privileged=privileged)
        own_terms = source.startswith(SIM) and is_allowed(Path(source.removeprefix(SIM)))
        return cls(source, seed, own_terms, gymnasium.registry.get(source), privileged)

    def __call__(self, i: int) -> Env:
        """Make environment number i.

        Raises:
            InputError: as `make_env`.
        """
        if self.registered is not None:
            gymnasium.registry.setdefault(self.registered.id, self.registered)
        # values drawn once in an environment's life: from this run's seed, the same on resume,
        # and others than those of an evaluation's environment i
        key = (self.seed, STARTUP) if i == 0 else (self.seed, STARTUP, i, TRAIN)
        return make_env(
            self.source,
            startup_seed=seed_of(*key),
            own_terms=self.own_terms,
            privileged=self.privileged,
        )
