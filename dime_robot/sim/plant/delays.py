"""DelayedPlant: a plant whose readings and commands are delayed by whole simulation steps."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.control.state import JointCommand, RobotState
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.telemetry.latency import read_distribution
from dime_robot.sim.config.randomization import Delay, LatencyConfig, require_seconds
from dime_robot.sim.plant.plant import Plant


class _Channel:
    """The delay of messages in one direction, in simulation steps."""

    def __init__(self, delay: Delay, folder: Path, timestep: float) -> None:
        self.varies = delay.redraw == "step"
        self._hold, self._timestep = delay.hold, timestep
        # quantiles of the delay: the two ends of a range, or as measured [s]
        self._quantiles: FloatArray = np.array(delay.range or (0.0, 0.0))
        if delay.file is not None:
            path = folder / delay.file
            self._quantiles = np.array(read_distribution(path).quantiles)
            try:
                require_seconds(self._quantiles[0], self._quantiles[-1], "measured delay")
            except ValueError as error:
                raise InputError(f"{path}: {error}") from None
        self.max_steps = self._to_steps(self._quantiles[-1])
        self.share = 1.0  # factor on drawn delays
        self.delay = 0.0  # last drawn [s]
        self.steps = 0

    def _to_steps(self, delay: float) -> int:
        return int(delay / self._timestep + 0.5)

    def draw(self, rng: np.random.Generator) -> None:
        """Draw a new delay."""
        shares = np.linspace(0.0, 1.0, len(self._quantiles))
        self.delay = self.share * float(np.interp(rng.random(), shares, self._quantiles))
        self.steps = self._to_steps(self.delay)

    def is_lost(self, rng: np.random.Generator) -> bool:
        """Draw the delay of a control step if it varies; return whether its message is lost."""
        if self.varies:
            self.draw(rng)
        return self._hold > 0 and rng.random() < self.share * self._hold


class DelayedPlant:
    """A Plant whose readings and commands are delayed and may be lost.

    Messages never overtake one another, even if a delay varies from step to step: an older command
    never follows a newer one, and a reading is never older than the one before.

    Args:
        plant: call `reset` here after resetting it.
        latency: without any delay, `step` is the plant's and nothing is drawn.
        folder: of the configuration, which `Delay.file` is relative to.

    Raises:
        InputError: a file of delays is missing or invalid.
    """

    def __init__(self, plant: Plant, latency: LatencyConfig, folder: Path = Path()) -> None:
        self._plant = plant
        timestep = float(plant.model.opt.timestep)
        self._observation, self._action = (
            None if delay is None else _Channel(delay, folder, timestep)
            for delay in (latency.observation, latency.action)
        )
        self._now = 0  # simulation steps since reset
        action, observation = self._action, self._observation
        waiting = 0 if action is None else action.max_steps // plant.decimation + 2
        self._commands: deque[tuple[int, JointCommand]] = deque(maxlen=waiting)  # due step, command
        past = 0 if observation is None else observation.max_steps + plant.decimation + 1
        self._readings: deque[tuple[int, RobotState]] = deque(maxlen=past)  # step, reading

    @property
    def observation_delay(self) -> float:
        """Last drawn delay [s]."""
        return 0.0 if self._observation is None else self._observation.delay

    @property
    def action_delay(self) -> float:
        """Last drawn delay [s]."""
        return 0.0 if self._action is None else self._action.delay

    def scale(self, share: float) -> None:
        """Shorten the delays, and lose fewer messages, from the next reset on.

        Args:
            share: factor on drawn delays and on the probability of a loss, in [0, 1].
        """
        for channel in (self._observation, self._action):
            if channel is not None:
                channel.share = share

    def reset(self, rng: np.random.Generator) -> RobotState:
        """Discard pending messages; return the current state, which is the first reading."""
        self._now = 0
        self._commands.clear()
        self._readings.clear()
        for line in (self._observation, self._action):
            if line is not None:
                line.draw(rng)
        self._plant.delays = (self.observation_delay, self.action_delay)
        self._arrived = self._plant.state()
        self._readings.append((0, self._arrived))
        return self._arrived

    def step(self, command: JointCommand, rng: np.random.Generator) -> RobotState:
        """Send a command, simulate one control period; return the newest reading that arrived."""
        observation, action = self._observation, self._action
        if observation is None and action is None:
            return self._plant.step(command)
        if action is None:
            self._plant.command(command)
        elif not action.is_lost(rng):
            # copied, since the sender may change its array before it is due
            sent = command._replace(value=command.value.copy())
            self._commands.append((self._now + action.steps, sent))
        lost = observation is not None and observation.is_lost(rng)
        self._plant.delays = (self.observation_delay, self.action_delay)
        self._advance()
        if observation is None:
            return self._plant.state()
        if not lost:
            readings, newest = self._readings, self._now - observation.steps
            while len(readings) > 1 and readings[1][0] <= newest:
                readings.popleft()
            self._arrived = readings[0][1]
        return self._arrived

    def _advance(self) -> None:
        """Simulate one control period; commands take effect when they are due."""
        observation, decimation = self._observation, self._plant.decimation
        for _ in range(decimation):
            # a command waits for those before it, so that none overtakes
            while self._commands and self._commands[0][0] <= self._now:
                self._plant.command(self._commands.popleft()[1])
            self._plant.advance(1)
            self._now += 1
            # a constant delay always needs the same step of a period
            if observation is not None and (
                observation.varies or (self._now + observation.steps) % decimation == 0
            ):
                self._readings.append((self._now, self._plant.state()))
