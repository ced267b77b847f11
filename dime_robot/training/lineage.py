"""The lineage of a policy: every stage of its training, and the commands that repeat them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator

from dime_robot.learning.config import TrainConfig, changes, option_words
from dime_robot.runtime.contract.policy_spec import StrictModel
from dime_robot.runtime.policy.env_name import PYTHON
from dime_robot.training.presets import preset_config
from dime_robot.training.run_folder import RunFolder

Beginning = Literal["new", "init", "moved", "unknown"]
# settings that files of earlier releases do not have -> what they were trained with
ADDED: dict[str, Any] = {
    "num_envs": 1,
    "n_step": 1,
    "curriculum": True,
    "symmetry": False,
    "asymmetric_critic": False,
    "normalize_observations": False,
    "workers": 0,
    "ray": False,
}


class Stage(StrictModel):
    """One stage of training: a run, or its part in one environment."""

    begins: Beginning = Field(
        description="from random networks, from those of another run's checkpoint (--init), from"
        " the same run in another environment (--resume with --env), or not recorded"
    )
    init: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the checkpoint of --init"
    )
    since: int = Field(ge=0, lt=2**53, description="step of its run at which it began")
    until: int = Field(ge=0, lt=2**53, description="step of its run that it reached")
    config: TrainConfig

    @field_validator("config", mode="before")
    @classmethod
    def _every_setting_is_there(cls, given: Any) -> Any:
        """Refuse a missing setting: it must not be replaced by the present default."""
        if isinstance(given, dict):
            given = {**ADDED, **given}
            missing = sorted(TrainConfig.model_fields.keys() - given.keys())
            if missing:
                raise ValueError(f"expected every setting, {', '.join(missing)} is missing")
        return given


Lineage = tuple[Stage, ...]


class Origin(NamedTuple):
    """The checkpoint whose networks a run begins from (--init)."""

    lineage: Lineage
    digest: str  # SHA-256


def commands(lineage: Sequence[Stage]) -> list[str]:
    """Return the commands that repeat the training, oldest first; run folders have numbers from 1.

    An environment that a program made has no command line: its line is a call of `train_policy`.
    """
    lines, run = [], 0
    for stage, following in zip(lineage, [*lineage[1:], None], strict=True):
        config = stage.config
        if following is not None or stage.until < config.steps:  # it ended early
            config = config.model_copy(update={"steps": stage.until})
        settings: dict[str, Any]
        if stage.begins == "moved" and run > 0:
            settings = {"resume": f"runs/{run}", "env": config.env, "steps": config.steps}
        else:
            run += 1
            settings = {"env": config.env, "preset": config.preset}
            if stage.begins == "init":
                before = RunFolder(Path("runs") / str(run - 1))
                settings["init"] = str(before.checkpoint) if run > 1 else "CKPT"
            settings |= changes(config, preset_config(config.preset, config.env))
            if len(lineage) > 1:
                settings["out"] = f"runs/{run}"
        lines.append(_command(settings))
    return lines


def _command(settings: dict[str, Any]) -> str:
    env = settings["env"]
    if not env.startswith(PYTHON):
        return shlex.join(["python", "-m", "dime_robot.train", *option_words(settings)])
    others = [f"{name}={value!r}" for name, value in settings.items() if name != "env"]
    return f"train_policy({', '.join([env.removeprefix(PYTHON), *others])})"
