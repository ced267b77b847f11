"""Environments for tests of workers. No torch: a worker imports this file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np


class Ramble(gymnasium.Env[np.ndarray, np.ndarray]):
    """A point that is pushed about; beyond 1 the episode terminates. Levels push harder."""

    observation_space = gymnasium.spaces.Box(-9, 9, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.place, self.push, self.last = np.zeros(2), 0.05, np.zeros(1)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.push = 0.05 * (1 + (options or {}).get("level", 9))
        self.place, self.last = self.np_random.uniform(-0.5, 0.5, 2), np.zeros(1)
        return self.place.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place = self.place + 0.2 * action - 0.1 * self.last
        self.place += self.np_random.normal(0.0, self.push, 2)
        self.last = action
        error = float(np.abs(self.place).max())
        info = {"is_success": error < 0.5, "measures": {"error": error}}
        return self.place.astype(np.float32), -error, error > 1, False, info


class Failing(Ramble):
    """Its third step fails."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.count = 0

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        if self.count == 3:
            raise ValueError(f"no step {self.count}")
        return super().step(action)


class Leaving(Failing):
    """Its third step leaves the program."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        try:
            return super().step(action)
        except ValueError:
            raise SystemExit(7) from None


class Waiting(Ramble):
    """A step ends when the file that WAIT_FOR names exists."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        end = time.monotonic() + 60
        while not Path(os.environ["WAIT_FOR"]).exists() and time.monotonic() < end:
            time.sleep(0.01)
        return super().step(action)


gymnasium.register("Ramble-v0", Ramble, max_episode_steps=12)
gymnasium.register("Waiting-v0", Waiting, max_episode_steps=12)
