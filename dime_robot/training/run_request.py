"""RunRequest: the settings of a run and its starting point. Loads no torch, so it is fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dime_robot.learning.config import TrainConfig

if TYPE_CHECKING:
    from dime_robot.envs import EnvLike


@dataclass(frozen=True)
class RunRequest:
    """A new run, or one to resume.

    Attributes:
        config: all settings.
        out: the run folder; none: a new one under runs/.
        resume: the run folder to resume.
        init: a checkpoint whose networks a new run begins with.
        video: record a video at the end, where rendering works.
        env: the environment, if it cannot be made from `config.env`.
        config_file: the file of a robot task that the user named, to resume in the same task.
        ray_address: of the cluster of a run with `ray`; none: that of RAY_ADDRESS, or one of this
            machine alone.
    """

    config: TrainConfig
    out: Path | None = None
    resume: Path | None = None
    init: Path | None = None
    video: bool = True
    env: EnvLike | None = None
    config_file: Path | None = None
    ray_address: str | None = None
