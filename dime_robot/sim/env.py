"""RobotEnv: a Plant and a task as a Gymnasium environment, through the contract's encode/decode."""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np
import numpy.typing as npt

from dime_robot.runtime.observation import ActionDecoder, ObservationEncoder
from dime_robot.sim.config import load_robot_task
from dime_robot.sim.plant import Plant
from dime_robot.sim.tasks import SwingUp

Observation = npt.NDArray[np.float32]


class RobotEnv(gymnasium.Env[Observation, npt.NDArray[np.float32]]):
    """A robot task from `sim_configs/NAME.yaml`.

    Observation: raw SI values in the contract's order. Action: [-1, 1]. `info["is_success"]` says
    whether the task's success criterion holds at this step. The time limit is not in here:
    `config.episode_steps` says what `gymnasium.wrappers.TimeLimit` should be given.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}

    def __init__(self, name: str, render_mode: str | None = None) -> None:
        self.config, model_path = load_robot_task(name)
        self.policy_spec = self.config.policy
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": round(self.policy_spec.rate)}
        self.plant = Plant(self.policy_spec, self.config.sim, model_path)
        self.task = SwingUp(self.config.task, self.policy_spec)
        self._encoder, self._decoder = (
            ObservationEncoder(self.policy_spec),
            ActionDecoder(self.policy_spec),
        )
        self._renderer: mujoco.Renderer | None = None
        n_obs, n_act = self.policy_spec.n_obs, self.policy_spec.n_act
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (n_obs,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (n_act,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        state = self.plant.reset(self.task.start(self.np_random))
        self._encoder.reset()
        return self._encoder.encode(state), {"is_success": False}

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One control period."""
        command = self._decoder.decode(action)
        state = self.plant.step(command)
        reward = self.task.reward(state, command)
        info = {"is_success": self.task.is_success()}
        return self._encoder.encode(state, action), reward, False, False, info

    def render(self) -> npt.NDArray[np.uint8] | None:
        """The current frame, shape (360, 480, 3)."""
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
