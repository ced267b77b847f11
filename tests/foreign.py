"""Environments as other people write them: every deviation from the form, one at a time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Foreign(gymnasium.Env[Any, Any]):
    """A point that the action pushes; episodes of `length` steps.

    Args:
        actions, observations: spaces instead of the plain ones.
        observe: what is returned for the plain observation.
        reward, end, info: what is returned for the plain value.
        length: steps of an episode; 0: it never ends.
        dt: attribute of that name.
        pause: time that a step takes [s].
    """

    metadata: dict[str, Any] = {"render_modes": []}
    actions_taken: list[Any] = []

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.action_space = options.get("actions", spaces.Box(-1, 1, (2,), np.float32))
        self.observation_space = options.get("observations", spaces.Box(-9, 9, (3,), np.float32))
        if "dt" in options:
            self.dt = options["dt"]
        self._count = 0

    def _observation(self) -> Any:
        plain = np.full(3, 0.1 * (self._count % 5), np.float32)
        observe = self.options.get("observe")
        return observe(plain) if observe else plain

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self._count = 0
        return self._observation(), self.options.get("info", {})

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        self.actions_taken.append(action)
        time.sleep(self.options.get("pause", 0))
        self._count += 1
        done = self._count == self.options.get("length", 10)
        reward = self.options.get("reward", lambda value: value)(0.5)
        end = self.options.get("end", lambda value: value)(done)
        return self._observation(), reward, end, False, self.options.get("info", {})


class Lonely(Foreign):
    """A simulator of which only some instances can live at once."""

    living = 0
    max_living = 1

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if Lonely.living >= Lonely.max_living:
            raise RuntimeError("the simulator is in use")
        Lonely.living += 1

    def close(self) -> None:
        Lonely.living -= 1


def register(name: str, kind: type[Foreign] = Foreign, **options: Any) -> str:
    """The id of such an environment."""
    gymnasium.register(name, kind, kwargs=options)
    return name


MODULE = """
import time
import gymnasium, numpy as np
class Own(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    metadata = {}
    def __init__(self, length=10, pause=0.0):
        self.length, self.pause, self.n = length, pause, 0
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n = 0
        return np.zeros(2, np.float32), {}
    def step(self, action):
        time.sleep(self.pause)
        self.n += 1
        return np.zeros(2, np.float32), 1.0, self.n == self.length, False, {}
gymnasium.register("Own-v0", Own)
gymnasium.register("Endless-v0", Own, kwargs={"length": 0})
gymnasium.register("Stuck-v0", Own, kwargs={"length": 0, "pause": 1000.0})
"""


def write_module(folder: Path) -> None:
    """`owns.py` with the ids Own-v0, Endless-v0 (no end) and Stuck-v0 (a step that hangs)."""
    (folder / "owns.py").write_text(MODULE)
