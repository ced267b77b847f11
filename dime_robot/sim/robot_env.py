"""RobotEnv: a Plant and a task as a Gymnasium environment, with the contract's encoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import numpy.typing as npt

from dime_robot.runtime.contract.interpolation import Interpolation
from dime_robot.runtime.contract.policy_spec import Float32Array, FloatArray
from dime_robot.runtime.control.observation import ActionDecoder, ObservationEncoder
from dime_robot.runtime.control.state import RobotState
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.curriculum import LevelConfig
from dime_robot.sim.config.robot_task import RobotTaskConfig, load_robot_task
from dime_robot.sim.config.symmetry import Mirror
from dime_robot.sim.plant.delays import DelayedPlant
from dime_robot.sim.plant.plant import make_plant
from dime_robot.sim.randomization.randomizer import Randomizer
from dime_robot.sim.tasks.digest import task_digest
from dime_robot.sim.tasks.task import Task


class RobotEnv(gymnasium.Env[Float32Array, Float32Array]):
    """A robot task from `sim_configs/NAME.yaml`, with its randomization.

    Observation: raw SI values in the contract's order. Action: [-1, 1]. `info["is_success"]` is
    whether the task's success criterion holds at this step, `info["measures"]` has the task's
    metrics of the step, `info["effort_peak"]` is the largest effort of a joint's drive since the
    reset [N m or N]. The time limit is applied by `gymnasium.wrappers.TimeLimit`, with
    `config.episode_steps`.

    `reset(options={"level": k})` begins an episode in level k of the curriculum, whose episodes may
    be truncated earlier; without it, in the whole task.

    With `privileged`, an observation is longer: what only critics see (`task.privileged`) comes
    after the contract's values.

    Args:
        name: of the configuration.
        render_mode: None or rgb_array.
        variant: configuration and model to use instead of those that `name` selects.
        startup_seed: for values that are drawn once in the environment's life.
        privileged: append what only critics see to observations.

    Raises:
        InputError: the configuration cannot be used, or names nothing that only critics see.

    Attributes:
        config: as read.
        policy_spec: the contract.
        plant: the simulated robot.
        task: the whole task, or that of the current level.
        randomizer: of its plant.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}

    def __init__(
        self,
        name: str,
        render_mode: str | None = None,
        variant: tuple[RobotTaskConfig, Path] | None = None,
        startup_seed: int = 0,
        privileged: bool = False,
    ) -> None:
        self.config, model_path = variant or load_robot_task(name)
        self._model_path = model_path
        self.policy_spec = spec = self.config.policy
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": round(spec.rate)}
        self.plant = make_plant(self.config, model_path)
        self._privileged = privileged
        self._whole = self.task = Task(self.config, self.plant, privileged)
        if privileged and not self.task.privileged_sizes:
            raise InputError(
                f"{self.config.source}: expected a section task.privileged, which names what only"
                " the critics see (--asymmetric-critic), got none"
            )
        self._levels: list[Task] = []  # made when the first one is asked for
        self._limit: int | None = None  # steps of an episode in a level
        self.randomizer = Randomizer(self.config.randomization, spec, self.plant)
        self.randomizer.startup(np.random.default_rng(startup_seed))
        self._delayed = DelayedPlant(self.plant, self.config.latency)
        self._encoder, self._decoder = ObservationEncoder(spec), ActionDecoder(spec)
        self._has_signals = bool(spec.signals)
        self._steps = 0
        self._state: RobotState | None = None  # the last reading
        self._sent: FloatArray | None = None  # the last command; None: none since the reset
        self._renderer: mujoco.Renderer | None = None
        size = spec.n_obs + sum(self.task.privileged_sizes.values())
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (spec.n_act,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self._choose(None if options is None else options.get("level"))
        self.randomizer.reset(self.np_random)
        self.task.start(self.np_random)
        state = self._delayed.reset(self.np_random)
        self._encoder.reset()
        self._decoder.reset()
        self._steps, self._sent = 0, None
        return self._observe(state), self._success_of(False)

    def step(self, action: Float32Array) -> tuple[Float32Array, float, bool, bool, dict[str, Any]]:
        """Simulate one control period.

        Args:
            action: in [-1, 1], shape (n_act,).

        Raises:
            InputError: the simulation has diverged (`Plant.divergence`), or a term fails.
        """
        command = self._decoder.decode(action, self._state, self._sent)
        self._sent = command.value
        self.randomizer.step(self.np_random, self._steps * self.policy_spec.period)
        state = self._delayed.step(command, self.np_random)
        self._steps += 1
        if (diverged := self.plant.divergence()) is not None:
            raise InputError(
                f"{self._model_path}: expected a simulation that stays stable, got {diverged}"
                f" {self._steps} control steps after a reset; lower sim.timestep or the gains, or"
                " raise the smallest masses and inertias"
            )
        reward = self.task.step(command, self.np_random)
        info = self._success_of(self.task.is_success())
        info["measures"] = dict(self.task.metrics)
        if self.plant.drive is not None:
            info["effort_peak"] = float(self.plant.drive.peak.max())
        late = self._limit is not None and self._steps >= self._limit
        return self._observe(state), reward, self.task.terminated(), late, info

    @property
    def curriculum(self) -> tuple[LevelConfig, ...]:
        """The levels in which training begins."""
        return self.config.curriculum

    def _choose(self, number: int | None) -> None:
        """Take the task, the randomization and the latency of a level; None: the whole task's."""
        if number is None:
            self.task, self._limit = self._whole, None
            self.randomizer.share = 1.0
            self._delayed.scale(1.0)
            return
        if not self._levels:
            self._levels = [self._task_at(i) for i in range(len(self.curriculum))]
        level, self.task = self.curriculum[number], self._levels[number]
        self._limit = round(self.task.config.episode_seconds * self.policy_spec.rate)
        self.randomizer.share = level.randomization
        self._delayed.scale(level.latency)

    def _task_at(self, number: int) -> Task:
        try:
            return Task(self.config.at_level(number), self.plant, self._privileged)
        except InputError as error:
            raise InputError(f"curriculum.{self.curriculum[number].name}: {error}") from None

    def _success_of(self, holds: bool | None) -> dict[str, Any]:
        """Return the entry of `info` about success; none if the task states no criterion."""
        return {} if self.task.is_success() is None else {"is_success": holds}

    def _observe(self, state: RobotState) -> Float32Array:
        self._state = state
        state = state._replace(command_velocity=self.task.command_velocity)
        if self._has_signals:
            state = state._replace(signals={**self.task.commands, **self.task.sensors()})
        observation = self._encoder.encode(state, self._decoder.last_action)
        observation = self.randomizer.observe(observation, self.np_random)
        if self._privileged:
            observation = np.concatenate([observation, self.task.privileged()], dtype=np.float32)
        return observation

    @property
    def privileged_sizes(self) -> dict[str, int]:
        """How many numbers each term that only critics see has, in the order of the observation."""
        return dict(self._whole.privileged_sizes)

    @property
    def model_path(self) -> Path:
        """The MJCF file of the robot."""
        return self._model_path

    def mirror(self) -> Mirror:
        """Return the mirror image of this environment's observations and actions.

        Raises:
            InputError: the file states none (`symmetry:`), or something has no mirror image.
        """
        if self.config.symmetry is None:
            raise InputError(
                f"{self.config.source}: expected a section `symmetry:`, which says what the robot's"
                " mirror image is, got none"
            )
        return self._whole.mirror(self.config.symmetry)

    @property
    def task_digest(self) -> str:
        """The digest of the task, which policies trained in it record."""
        return task_digest(self.config, self._model_path)

    @property
    def interpolation(self) -> Interpolation:
        """The interpolation of the robot's commands, which policies trained with it record."""
        return self.config.robot.command.interpolated

    def render(self) -> npt.NDArray[np.uint8] | None:
        """Return the current frame, shape (360, 480, 3)."""
        if self.render_mode != "rgb_array":
            return None
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self.plant.model, 360, 480)
        camera = self.config.sim.camera
        self._renderer.update_scene(self.plant.data, camera=-1 if camera is None else camera)
        frame: npt.NDArray[np.uint8] = self._renderer.render()
        return frame

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
