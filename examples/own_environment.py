"""Train and evaluate in an environment of your own: a function that makes it is enough.

python examples/own_environment.py [STEPS]

A file cannot refer to that function, so such a run is evaluated and resumed only if the function is
given again, and cannot be exported. For commands and exports, register an id, as this module does:
`PYTHONPATH=examples python -m dime_robot.train --env own_environment:Reach-v0`.
"""

import sys
import tempfile
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from dime_robot import evaluate_policy, train_policy


class Reach(gymnasium.Env):
    """Move a point on a line to 0: position [m], velocity [m/s], acceleration [m/s^2]."""

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


def make_reach() -> gymnasium.Env:
    """Return a new environment at each call, since evaluations run several side by side."""
    return TimeLimit(Reach(), 100)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        run = train_policy(
            make_reach,
            steps=int(sys.argv[1]) if len(sys.argv) > 1 else 3000,
            v_min=-110.0,  # range of the discounted returns: the critic's atoms
            v_max=0.0,
            out=Path(folder) / "run",
        )
        print(f"mean return {run.evaluations[-1].return_mean:.2f}")
        print(evaluate_policy(run.folder, env=make_reach, episodes=10))

gymnasium.register("Reach-v0", entry_point=Reach, max_episode_steps=100)
