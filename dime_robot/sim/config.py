"""What a file in `sim_configs/` says: the policy's contract, the simulation, the task."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from dime_robot.runtime.errors import InputError, first_problem
from dime_robot.runtime.robot import RobotConfig, config_folder, read_yaml
from dime_robot.runtime.spec import Frozen, PolicySpec


class SimConfig(Frozen):
    """How the robot is simulated."""

    model: str = Field(description="MJCF file, relative to the configuration file")
    timestep: float = Field(gt=0, description="simulation step [s]")
    decimation: int = Field(gt=0, description="simulation steps per control step")
    imu: str | None = Field(None, description="body that carries the imu; none: the robot has none")
    camera: str | None = Field(None, description="camera that renders; none: the free camera")


class SwingUpConfig(Frozen):
    """The swing-up of a cart-pole; `tasks.SwingUp` gives the reward."""

    kind: Literal["swing_up"]
    cart: str = Field(description="the prismatic joint")
    pole: str = Field(description="the revolute joint, 0 = upright")
    episode_seconds: float = Field(gt=0, description="time limit, a truncation [s]")
    position_width: float = Field(gt=0, description="distance at which 'centred' falls to e^-1 [m]")
    velocity_width: float = Field(gt=0, description="speed at which 'slow' falls to e^-1 [rad/s]")
    success_angle: float = Field(gt=0, lt=90, description="counts as standing below it [degrees]")
    success_window: float = Field(gt=0, description="judged at the end of an episode [s]")
    success_share: float = Field(gt=0, le=1, description="share of the window it has to stand")


class RobotTaskConfig(Frozen):
    """One file of `sim_configs/`."""

    policy: PolicySpec
    robot: RobotConfig
    sim: SimConfig
    task: SwingUpConfig

    @property
    def episode_steps(self) -> int:
        """The time limit in control steps."""
        return round(self.task.episode_seconds * self.policy.rate)

    @model_validator(mode="after")
    def _rates_agree(self) -> RobotTaskConfig:
        period = self.sim.timestep * self.sim.decimation
        if abs(period * self.policy.rate - 1) > 1e-9:
            raise ValueError(
                f"expected sim.timestep * sim.decimation = 1 / policy.rate ="
                f" {1 / self.policy.rate:g} s, got {self.sim.timestep:g} * {self.sim.decimation} ="
                f" {period:g} s"
            )
        return self


def load_robot_task(name: str) -> tuple[RobotTaskConfig, Path]:
    """Read `sim_configs/NAME.yaml`; gives the configuration and the path of its model.

    Raises:
        InputError: no such file, no YAML, or a value that does not fit.
    """
    folder = config_folder()
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(f"sim:{file.stem}" for file in sorted(folder.glob("*.yaml")))
        raise InputError(f"sim:{name}: expected one of {known}")
    return read_robot_task(path)


def read_robot_task(path: Path) -> tuple[RobotTaskConfig, Path]:
    """Like `load_robot_task`, for any path."""
    try:
        config = RobotTaskConfig.model_validate(read_yaml(path))
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from None
    return config, path.parent / config.sim.model
