"""Train in an environment of your own: register it, and give its id.

python examples/own_environment.py [STEPS]

From the command line the id needs the module that registers it, so that it can be imported:
`PYTHONPATH=examples python -m dime_robot.train --env own_environment:Reach-v0`.
"""

import sys
import tempfile
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces

from dime_robot import train_policy


class Reach(gymnasium.Env):
    """A point on a line shall go to 0: position [m], velocity [m/s], acceleration [m/s^2]."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-3.0, 3.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):  # noqa: D102
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.state.copy(), {}

    def step(self, action):  # noqa: D102
        position, velocity = self.state
        velocity += 0.05 * float(action[0])
        position += 0.05 * velocity
        self.state = np.clip([position, velocity], -1, 1).astype(np.float32)
        return self.state.copy(), -float(position**2 + 0.1 * velocity**2), False, False, {}


gymnasium.register("Reach-v0", entry_point=Reach, max_episode_steps=100)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        run = train_policy(
            "Reach-v0",
            steps=int(sys.argv[1]) if len(sys.argv) > 1 else 3000,
            v_min=-110.0,  # discounted returns lie between these: the critic's atoms
            v_max=0.0,
            out=Path(folder) / "run",
        )
        print(f"mean return {run.evaluations[-1].return_mean:.2f}")
