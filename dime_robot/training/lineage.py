"""Where a policy comes from: every stretch of training behind it, and the commands to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator

from dime_robot.learning.config import TrainConfig, train_options
from dime_robot.runtime.contract.policy_spec import StrictModel
from dime_robot.training.presets import preset_config

Beginning = Literal["new", "init", "moved", "unknown"]


class Stage(StrictModel):
    """One stretch of training: one run, or its part in one environment."""

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
        """A setting left out must not become today's default."""
        if isinstance(given, dict):
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
    """The command lines that repeat it, oldest first; run folders are numbered from 1."""
    lines, run = [], 0
    for stage, following in zip(lineage, [*lineage[1:], None], strict=True):
        words = ["python", "-m", "dime_robot.train"]
        goes_on = stage.begins == "moved" and run > 0
        if goes_on:
            words += ["--resume", f"runs/{run}", "--env", stage.config.env]
        else:
            run += 1
            words += ["--env", stage.config.env, "--preset", stage.config.preset]
            if stage.begins == "init":
                words += ["--init", f"runs/{run - 1}/ckpt.pt" if run > 1 else "CKPT"]
        config = stage.config
        ended_early = following is not None or stage.until < config.steps
        if ended_early:
            config = config.model_copy(update={"steps": stage.until})
        if goes_on:
            words += ["--steps", str(config.steps)]
        else:
            words += train_options(config, preset_config(config.preset, config.env))
        if len(lineage) > 1 and not goes_on:
            words += ["--out", f"runs/{run}"]
        lines.append(shlex.join(words))
    return lines
