"""RobotTaskConfig: a file in `sim_configs/`, with contract, robot, simulation and task."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from dime_robot.runtime.contract.config_files import (
    config_folder,
    read_config,
    shipped_config,
    shipped_names,
)
from dime_robot.runtime.contract.names import Name
from dime_robot.runtime.contract.policy_spec import IMU_TERMS, PolicySpec, StrictModel
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.contract.units import upper_bound
from dime_robot.runtime.io.errors import InputError, first_problem
from dime_robot.sim.config.curriculum import MAX_LEVELS, LevelConfig, task_at
from dime_robot.sim.config.old_tasks import as_terms, with_errors
from dime_robot.sim.config.randomization import Delay, LatencyConfig, RandomTerm
from dime_robot.sim.config.symmetry import SymmetryConfig
from dime_robot.sim.config.task import GROUP, VELOCITY, TaskConfig, with_weights

MAX_DECIMATION = 1_000  # more would take hours
MAX_COMMAND = 10.0  # of a suite's velocities [m/s, rad/s]


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
    """Share of the robot's velocity_limit up to which a joint's drive has its full torque, which
    then falls to 0 at the limit; none: full at any speed."""
    drive: Literal["explicit", "implicit"] = "explicit"
    """Integration of the drives of commanded and held joints: explicit, with the state at the
    beginning of a step, as a digital controller of that period; implicit, with the damping at its
    end, as a much faster controller: for gains that are unstable otherwise."""
    hold: dict[str, Hold] = Field(default_factory=dict)
    """Joints of the robot that the policy does not command: how each is held at its position in
    policy.held_joints."""
    feet: dict[Name, str] = Field(default_factory=dict)
    """Foot -> the geom that touches the ground; the force on it is the reading of its sensor."""
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

    @property
    def has_atoms(self) -> bool:
        """Whether both are stated, so that none follows from the rewards."""
        return self.v_min is not None and self.v_max is not None

    @model_validator(mode="after")
    def _atoms_are_ordered(self) -> TrainingConfig:
        if self.v_min is not None and self.v_max is not None and self.v_min >= self.v_max:
            raise ValueError(f"expected v_min < v_max, got {self.v_min:g} and {self.v_max:g}")
        return self

    def settings(self, largest_reward: float = 0.0, lowest_reward: float = 0.0) -> dict[str, Any]:
        """Return the settings of a training run, with atoms.

        Args:
            largest_reward: of one control step, unscaled [1].
            lowest_reward: the same, at most 0 [1].

        Raises:
            InputError: the atoms do not follow from these rewards.
        """
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        returns = self.reward_scale / (1 - self.discount)  # per reward
        # soft returns go a little above the largest return and below the lowest (entropy)
        beyond = 0.1 * max(largest_reward, -lowest_reward)
        found = {
            "v_min": round((lowest_reward - beyond) * returns, 1),
            "v_max": round((largest_reward + beyond) * returns, 1),
            **given,
        }
        if found["v_min"] >= found["v_max"]:
            raise InputError(
                f"training: expected v_min and v_max, since they do not follow from rewards between"
                f" {lowest_reward:g} and {largest_reward:g}, got {found['v_min']:g} and"
                f" {found['v_max']:g}"
            )
        return found


class SuiteConfig(StrictModel):
    """Commands and thresholds of `python -m dime_robot.evaluate --suite`."""

    command: Name = VELOCITY
    """Which of the task's commands is set."""
    commands: tuple[tuple[float, ...], ...] = Field(min_length=1)
    """Its values, evaluated one by one, in the command's unit."""
    survival: float = Field(ge=0, le=1)
    """Smallest share of episodes that are not terminated."""
    errors: dict[Name, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    """Metric of the task -> largest mean, in the metric's unit."""
    score: Name = "tracking_reward"
    """Metric of the task that is compared with the nominal robot's."""
    extreme_loss: float = Field(ge=0, le=1)
    """Largest share of the nominal score lost at one extreme."""

    @model_validator(mode="after")
    def _commands_are_alike(self) -> SuiteConfig:
        sizes = {len(command) for command in self.commands}
        if len(sizes) > 1:
            raise ValueError(f"commands: expected vectors of one length, got lengths {sizes}")
        if self.command == VELOCITY:
            for command in self.commands:
                if len(command) != 3 or max(map(abs, command)) > MAX_COMMAND:
                    raise ValueError(
                        f"commands: expected [linear_x, linear_y, angular_z] up to {MAX_COMMAND:g}"
                        f" m/s and rad/s, got {list(command)}"
                    )
        return self


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
    symmetry: SymmetryConfig | None = None
    """Left-right mirror image of the robot; none: it has none, or nobody has written it."""
    curriculum: tuple[LevelConfig, ...] = Field((), max_length=MAX_LEVELS)
    """Easier forms of the task, in which training begins; none: it begins with the whole task."""
    _source: Path = PrivateAttr(default=Path())

    @property
    def source(self) -> Path:
        """Path of the file it was read from, beside which the task's own terms are."""
        return self._source

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

    def at_level(self, level: int) -> RobotTaskConfig:
        """Return this configuration with the task of a level of its curriculum.

        Args:
            level: number of the level, from 0.

        Raises:
            InputError: there is no task.
        """
        task = task_at(self.curriculum[level], require_task(self))
        return self.model_copy(update={"task": task})

    @model_validator(mode="after")
    def _levels_fit(self) -> RobotTaskConfig:
        names = [level.name for level in self.curriculum]
        if len(set(names)) < len(names):
            raise ValueError(f"curriculum: expected each name once, got {names}")
        if names and self.task is None:
            raise ValueError("curriculum: expected a section `task:`, whose levels these are")
        for level in self.curriculum:
            assert self.task is not None
            try:
                task_at(level, self.task).require_fit(self.policy)
            except ValueError as error:
                raise ValueError(f"curriculum.{level.name}.{error}") from None
        return self

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
    def _interpolation_is_simulated(self) -> RobotTaskConfig:
        try:
            count = self.robot.command.interpolated.per_step(self.policy)
        except ValueError as error:
            raise ValueError(f"robot.command.rate: {error}") from None
        if self.sim.decimation % count:
            raise ValueError(
                f"robot.command.rate: expected a whole number of simulation steps between two"
                f" commands, got {self.robot.command.rate:g} Hz: {self.sim.decimation} steps"
                f" (sim.decimation) for {count} commands"
            )
        return self

    @model_validator(mode="after")
    def _sections_fit(self) -> RobotTaskConfig:
        self.sim.require_fit(self.policy)
        if self.task is not None:
            try:
                self.task.require_fit(self.policy)
            except ValueError as error:
                raise ValueError(f"task.{error}") from None
        measured = self.policy.feet if self.robot.contact is None else self.robot.contact.feet
        if unknown := [foot for foot in measured if foot not in self.sim.feet]:
            raise ValueError(
                f"sim.feet: expected the geom of each foot whose force is measured, {unknown} are"
                " missing"
            )
        if self.symmetry is not None:
            self.symmetry.require_fit(self.policy)
        for term in self.policy.observation:
            if term.kind in IMU_TERMS and self.sim.imu is None:
                raise ValueError(
                    f"sim.imu: expected the body that carries it, since observation term"
                    f" {term.name} reads it, got none"
                )
        return self


def require_task(config: RobotTaskConfig) -> TaskConfig:
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
    content = read_robot_task(path)
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
    path = shipped_config(name)
    if path is None:
        known = ", ".join(f"sim:{known}" for known in shipped_names())
        raise InputError(f"sim:{name}: expected one of {known}, or the path of a .yaml file")
    return path


def read_robot_task(path: Path) -> dict[str, Any]:
    """Read a file and those that it extends, with the keys of older files in their new places.

    A mirror image (`symmetry:`) is not taken over by a file that changes the contract or the model,
    unless the file says something of it itself: it need not hold for another robot.

    Args:
        path: of the configuration.

    Raises:
        InputError: as `read_config`, an old task is incomplete, or a file in another folder names
            terms that are not ours.
    """
    folder = path.resolve().parent
    named: set[tuple[str, str]] = set()  # sections and names of terms that files here choose
    changed = stated = False  # the robot, and its mirror image, by files nearer to the typed one

    def layer(content: dict[str, Any], file: Path) -> dict[str, Any]:
        nonlocal changed, stated
        content = with_errors(content)
        if changed and not stated:
            content = {key: value for key, value in content.items() if key != "symmetry"}
        changed = changed or not content.keys().isdisjoint(("policy", "sim"))
        stated = stated or "symmetry" in content
        task = content.get("task")
        if not isinstance(task, dict):
            return content
        try:
            task = with_weights(as_terms(task, partial="extends" in content))
        except ValueError as error:
            raise InputError(f"{file}: task.{error}") from None
        if file.resolve().parent == folder:  # files are read from the typed one downwards
            named.update(_chosen(task))
        else:
            _require_no_own_terms(task, file, named)
        return {**content, "task": task}

    return read_config(path, layer)


def _chosen(task: dict[str, Any]) -> set[tuple[str, str]]:
    """Return section and name of each entry that says which term it is, or is left out."""
    return {
        (section, name)
        for section, entries in task.items()
        for name, entry in (entries.items() if isinstance(entries, dict) else ())
        if entry is None or isinstance(entry, str) or (isinstance(entry, dict) and "term" in entry)
    }


def _require_no_own_terms(task: dict[str, Any], file: Path, named: set[tuple[str, str]]) -> None:
    """Refuse terms of the user's own in a file that lies elsewhere than the one he typed.

    Args:
        task: the section of that file.
        file: its path.
        named: section and name of entries whose term is chosen in the folder of the typed file.
    """
    registered: set[str] = set()
    if file.resolve().parent != config_folder().resolve():  # the shipped files name only ours
        registered = {entry.name for entry in entry_points(group=GROUP)}
    for section, entries in task.items():
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            # an entry without a term names one by its own name
            term = entry.get("term", name) if isinstance(entry, dict) else entry
            if (section, name) in named or not isinstance(term, str):
                continue
            if ":" in term or term in registered:
                raise InputError(
                    f"{file}: task.{section}.{name}: expected terms of this project in a file of"
                    f" another folder that is extended, got {term:.80}: name the `term:` of that"
                    " entry in your own file, with its code beside it"
                )


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
    config = config.model_copy(update={"latency": latency})
    config._source = path
    return config, path.parent / config.sim.model


def _resolved(delay: Delay | None, folder: Path) -> Delay | None:
    """Return a delay with the path of its file resolved relative to `folder`."""
    if delay is None or delay.file is None:
        return delay
    return delay.model_copy(update={"file": str(folder / delay.file)})
