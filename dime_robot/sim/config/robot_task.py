"""RobotTaskConfig: a file in `sim_configs/`, with contract, robot, simulation and task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, ValidationError, model_validator

from dime_robot.runtime.contract.config_files import config_folder, read_config
from dime_robot.runtime.contract.policy_spec import IMU_TERMS, TWIST_AXES, PolicySpec, StrictModel
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.contract.units import lower_bound, upper_bound
from dime_robot.runtime.io.errors import InputError, first_problem
from dime_robot.sim.config.randomization import Delay, LatencyConfig, RandomTerm

Seconds = Annotated[float, upper_bound(3600, "s", "ms")]
Metres = Annotated[float, upper_bound(5, "m", "cm")]
Tilt = Annotated[float, lower_bound(2, "degrees", "rad")]
Speed = Annotated[float, upper_bound(10, "m/s", "mm/s")]
MAX_DECIMATION = 1_000  # more would take hours
YawRate = Annotated[float, upper_bound(10, "rad/s", "degrees/s")]


class Hold(StrictModel):
    """How a joint that the policy does not move is held at its position in the contract."""

    stiffness: float = Field(gt=0)
    """Gain on the position error [N m/rad or N/m]."""
    damping: float = Field(ge=0)
    """Gain on the velocity [N m s/rad or N s/m]."""
    effort_limit: float | None = Field(None, gt=0)
    """Largest effort, of both parts together [N m or N]; none: any."""


class SimConfig(StrictModel):
    """The simulation of the robot."""

    model: str
    """MJCF file, relative to the configuration file."""
    timestep: Annotated[float, upper_bound(0.1, "s", "ms")] = Field(gt=0)
    """Simulation step [s]."""
    decimation: int = Field(gt=0, le=MAX_DECIMATION)
    """Simulation steps per control step."""
    imu: str | None = None
    """Body that carries the imu; none: the robot has none."""
    camera: str | None = None
    """Camera that renders; none: the free camera."""
    full_torque_speed: float | None = Field(None, gt=0, lt=1)
    """Share of the robot's velocity_limit up to which a position drive has its full torque, which
    then falls to 0 at the limit; none: full at any speed."""
    drive: Literal["explicit", "implicit"] = "explicit"
    """Integration of position drives and held joints: explicit, with the state at the beginning of
    a step, as a digital controller of that period; implicit, with the damping at its end, as a much
    faster controller: for gains that are unstable otherwise."""
    hold: dict[str, Hold] = Field(default_factory=dict)
    """Joints of the robot that the policy does not command: how each is held at its position in
    policy.held_joints."""
    free: tuple[str, ...] = ()
    """Passive joints of the robot, without any drive."""

    @model_validator(mode="after")
    def _held_is_not_free(self) -> SimConfig:
        if len(set(self.free)) < len(self.free):
            raise ValueError(f"free: expected each joint once, got {list(self.free)}")
        both = sorted(set(self.free) & set(self.hold))
        if both:
            raise ValueError(f"expected joints either in hold or in free, got {both} in both")
        return self

    def require_fit(self, spec: PolicySpec) -> None:
        """Refuse a contract with other held joints.

        Args:
            spec: the contract.

        Raises:
            ValueError: `hold` and the contract's held_joints name different joints, or a joint of
                the contract is held or free.
        """
        if set(self.hold) != set(spec.held_joints):
            raise ValueError(
                f"sim.hold: expected the joints of policy.held_joints, {sorted(spec.held_joints)},"
                f" got {sorted(self.hold)}: the contract says where a joint is held, sim.hold how"
            )
        own = sorted({joint.name for joint in spec.joints} & set(self.free))
        if own:
            raise ValueError(
                f"sim.free: expected joints that the policy does not name, got {own}, which are"
                " joints of the contract"
            )


class SwingUpConfig(StrictModel):
    """The swing-up of a cart-pole; `tasks.SwingUp` defines the reward."""

    kind: Literal["swing_up"]
    cart: str
    """The prismatic joint."""
    pole: str
    """The revolute joint, 0 = upright."""
    episode_seconds: Seconds = Field(gt=0)
    """Time limit, a truncation [s]."""
    position_width: float = Field(gt=0)
    """Distance at which 'centred' falls to e^-1 [m]."""
    velocity_width: float = Field(gt=0)
    """Speed at which 'slow' falls to e^-1 [rad/s]."""
    success_angle: Annotated[float, lower_bound(1, "degrees", "rad")] = Field(gt=0, lt=90)
    """The pole counts as standing below it [degrees]."""
    success_window: Seconds = Field(gt=0)
    """End of an episode, which is evaluated [s]."""
    success_share: float = Field(gt=0, le=1)
    """Share of the window for which the pole has to stand."""

    @property
    def largest_reward(self) -> float:
        """Largest reward of one control step: a product of shares."""
        return 1.0

    @model_validator(mode="after")
    def _window_fits(self) -> SwingUpConfig:
        if self.success_window > self.episode_seconds:
            raise ValueError(
                f"success_window: expected up to episode_seconds = {self.episode_seconds:g} s, got"
                f" {self.success_window:g} s"
            )
        return self

    def require_fit(self, spec: PolicySpec) -> None:
        """Refuse a policy that cannot do the task.

        Raises:
            ValueError: it cannot.
        """
        types = {joint.name: joint.type for joint in spec.joints}
        for field, name, expected in (
            ("cart", self.cart, "prismatic"),
            ("pole", self.pole, "revolute"),
        ):
            if types.get(name) != expected:
                known = [joint for joint, kind in types.items() if kind == expected]
                raise ValueError(
                    f"task.{field}: expected a {expected} joint of the policy, out of {known}, got"
                    f" {name!r}"
                )
        if self.cart not in spec.action.scale:
            raise ValueError(
                f"task.cart: expected a joint of action.scale, {list(spec.action.scale)}, got"
                f" {self.cart!r}"
            )
        for term in spec.observation:
            if term.kind == "command_velocity":
                raise ValueError(
                    f"observation term {term.name}: expected a task with a commanded velocity, got"
                    f" {self.kind}"
                )


class CommandConfig(StrictModel):
    """The commanded velocities of training, drawn uniformly."""

    linear_x: tuple[Speed, Speed]
    """Forward [m/s]."""
    linear_y: tuple[Speed, Speed]
    """Left [m/s]."""
    angular_z: tuple[YawRate, YawRate]
    """Yaw rate, left [rad/s]."""
    resample: Seconds = Field(gt=0)
    """Time between two draws [s]."""
    standing: float = Field(ge=0, le=1)
    """Share of draws with velocity 0."""
    turning: float = Field(0.0, ge=0, le=1)
    """Share of draws that turn on the spot."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> CommandConfig:
        for axis in TWIST_AXES:
            low, high = getattr(self, axis)
            if low > high:
                raise ValueError(f"{axis}: expected [lower, upper], got {[low, high]}")
        if self.standing + self.turning > 1:
            raise ValueError(
                f"expected standing + turning up to 1, got {self.standing:g} + {self.turning:g}"
            )
        return self


class VelocityRewards(StrictModel):
    """Weights of the terms in `velocity.VelocityTracking`, per control step."""

    track_linear: float = Field(ge=0)
    track_yaw: float = Field(ge=0)
    alive: float = Field(ge=0)
    vertical_speed: float = Field(le=0)
    roll_pitch_rate: float = Field(le=0)
    tilt: float = Field(le=0)
    action_change: float = Field(le=0)
    torque: float = Field(le=0)
    hip_angle: float = Field(le=0)


class VelocityTrackingConfig(StrictModel):
    """A legged base tracks a velocity; `velocity.VelocityTracking` defines the reward."""

    kind: Literal["velocity_tracking"]
    episode_seconds: Seconds = Field(gt=0)
    """Time limit, a truncation [s]."""
    start_height: Metres = Field(gt=0)
    """Height of the base at reset [m]."""
    start_noise: Annotated[float, upper_bound(1.6, "rad", "degrees")] = Field(ge=0)
    """Largest change of a joint at reset [rad]."""
    commands: CommandConfig
    linear_width: float = Field(gt=0)
    """Error at which tracking falls to e^-1 [m/s]."""
    yaw_width: float = Field(gt=0)
    """Error at which tracking falls to e^-1 [rad/s]."""
    rewards: VelocityRewards
    hips: tuple[str, ...]
    """Joints that should stay at their default position."""
    lowest: Metres = Field(gt=0)
    """Height of the base that ends an episode [m]."""
    largest_tilt: Tilt = Field(gt=0, lt=180)
    """That ends an episode [degrees]."""
    success_error: float = Field(gt=0)
    """An episode succeeds with no fall and a mean velocity this near [m/s]."""

    @property
    def largest_reward(self) -> float:
        """Largest reward of one control step: perfect tracking, upright, without effort."""
        weights = self.rewards
        return weights.track_linear + weights.track_yaw + weights.alive

    @model_validator(mode="after")
    def _starts_above_the_lowest(self) -> VelocityTrackingConfig:
        if self.lowest >= self.start_height:
            raise ValueError(
                f"lowest: expected less than start_height = {self.start_height:g} m, got"
                f" {self.lowest:g} m: every episode would end where it begins"
            )
        if len(set(self.hips)) < len(self.hips):
            raise ValueError(f"hips: expected each joint once, got {list(self.hips)}")
        return self

    def require_fit(self, spec: PolicySpec) -> None:
        """Refuse a policy that cannot do the task.

        Raises:
            ValueError: it cannot.
        """
        known = [joint.name for joint in spec.joints]
        for name in self.hips:
            if name not in known:
                raise ValueError(
                    f"task.hips: expected joints of the policy, out of {known}, got {name!r}"
                )


TaskConfig: TypeAlias = Annotated[
    SwingUpConfig | VelocityTrackingConfig, Field(discriminator="kind")
]


class TrainingConfig(StrictModel):
    """Settings of training. Atoms that are left out are computed from reward and discount."""

    discount: float = Field(0.99, ge=0, lt=1)
    """Gamma, per control step [1]."""
    reward_scale: float = Field(1.0, gt=0)
    """Factor on rewards inside the learner [1]."""
    v_min: float | None = None
    """Lowest atom [scaled return]."""
    v_max: float | None = None
    """Highest atom [scaled return]."""
    eval_interval: int | None = Field(None, gt=0)
    """Between evaluations [steps]."""
    steps: int | None = Field(None, gt=0)
    """Length of a run [steps]."""

    def settings(self, largest_reward: float) -> dict[str, Any]:
        """Return the settings of a training run, with atoms.

        Args:
            largest_reward: of one control step, unscaled [1].
        """
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        # soft returns go a little above the largest return and below 0 (entropy)
        largest = largest_reward * self.reward_scale / (1 - self.discount)
        derived = {"v_min": round(-0.1 * largest, 1), "v_max": round(1.1 * largest, 1)}
        return {**derived, **given}


class SuiteConfig(StrictModel):
    """Commands and thresholds of `python -m dime_robot.evaluate --suite`."""

    commands: tuple[tuple[Speed, Speed, YawRate], ...] = Field(min_length=1)
    """Velocities, evaluated one by one [m/s, m/s, rad/s]."""
    survival: float = Field(ge=0, le=1)
    """Smallest share of episodes without a fall."""
    velocity_error: float = Field(gt=0)
    """Largest mean error [m/s]."""
    yaw_rate_error: float = Field(gt=0)
    """Largest mean error [rad/s]."""
    extreme_loss: float = Field(ge=0, le=1)
    """Largest share of the nominal tracking reward lost at one extreme."""


class RobotTaskConfig(StrictModel):
    """One file of `sim_configs/`."""

    policy: PolicySpec
    robot: RobotConfig
    sim: SimConfig
    task: TaskConfig | None = None
    """Task to learn; none: the robot can only be checked and simulated."""
    training: TrainingConfig = TrainingConfig()
    randomization: tuple[RandomTerm, ...] = ()
    latency: LatencyConfig = LatencyConfig()
    suite: SuiteConfig | None = None

    @property
    def episode_seconds(self) -> float:
        """The task's time limit [s].

        Raises:
            InputError: there is no task.
        """
        return require_task(self).episode_seconds

    @property
    def episode_steps(self) -> int:
        """The task's time limit in control steps.

        Raises:
            InputError: there is no task.
        """
        return round(self.episode_seconds * self.policy.rate)

    def training_settings(self) -> dict[str, Any]:
        """Return the settings of training for this task, by their names in `TrainConfig`.

        Raises:
            InputError: there is no task.
        """
        return self.training.settings(require_task(self).largest_reward)

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

    @model_validator(mode="after")
    def _sections_fit(self) -> RobotTaskConfig:
        self.sim.require_fit(self.policy)
        if self.task is not None:
            self.task.require_fit(self.policy)
        for term in self.policy.observation:
            if term.kind in IMU_TERMS and self.sim.imu is None:
                raise ValueError(
                    f"sim.imu: expected the body that carries it, since observation term"
                    f" {term.name} reads it, got none"
                )
        return self


def require_task(config: RobotTaskConfig) -> SwingUpConfig | VelocityTrackingConfig:
    """Return the configuration's task.

    Raises:
        InputError: it has none.
    """
    if config.task is None:
        raise InputError(
            f"robot {config.robot.name}: expected a section `task:` that says what is learned, got"
            " none: without one a robot can be checked and simulated, not trained or evaluated"
        )
    return config.task


def load_robot_task(name: str | Path) -> tuple[RobotTaskConfig, Path]:
    """Read the configuration of a robot task.

    Args:
        name: of a file in `sim_configs/`, or the path of a YAML file.

    Returns:
        The configuration and the path of its model.

    Raises:
        InputError: no such file, not YAML, or an invalid value.
    """
    path = robot_task_path(name)
    content = read_config(path)
    try:
        return robot_task_of(content, path)
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from None


def robot_task_path(name: str | Path) -> Path:
    """Return the path of a configuration, given its name or path.

    Raises:
        InputError: no file of this name is shipped.
    """
    if isinstance(name, Path) or name.endswith((".yaml", ".yml")):
        return Path(name)
    folder = config_folder()
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(f"sim:{file.stem}" for file in sorted(folder.glob("*.yaml")))
        raise InputError(f"sim:{name}: expected one of {known}, or the path of a .yaml file")
    return path


def robot_task_of(content: dict[str, Any], path: Path) -> tuple[RobotTaskConfig, Path]:
    """Validate the content of a configuration file, and resolve the files that it names.

    Args:
        content: of the file.
        path: of the file.

    Returns:
        The configuration and the path of its model.

    Raises:
        ValidationError: with all invalid values.
    """
    config = RobotTaskConfig.model_validate(content)
    delays = {
        way: _resolved(getattr(config.latency, way), path.parent)
        for way in ("observation", "action")
    }
    latency = config.latency.model_copy(update=delays)
    return config.model_copy(update={"latency": latency}), path.parent / config.sim.model


def _resolved(delay: Delay | None, folder: Path) -> Delay | None:
    """Return a delay with the path of its file resolved relative to `folder`."""
    if delay is None or delay.file is None:
        return delay
    return delay.model_copy(update={"file": str(folder / delay.file)})
