"""How near the reaching arm's tool comes: `python -m benchmarks.reach POLICY [--episodes 100]`.

Each episode of `sim:reach` has two targets, two seconds each. The error of a target is the mean
distance during its last half second, without noise in the sampler.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from dime_robot.loaded_policy import load_policy
from dime_robot.sim.robot_env import RobotEnv

TARGET_STEPS, LAST = 100, 25  # of a target, and those that count
LIMITS = (0.05, 0.03)  # [m]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy", type=Path)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1000, help="of the first episode")
    given = parser.parse_args()
    policy, env = load_policy(given.policy, noise="zero"), RobotEnv("reach")
    errors = []
    for episode in range(given.episodes):
        observation, _ = env.reset(seed=given.seed + episode)
        distance = []
        for _ in range(env.config.episode_steps):
            observation, _, _, _, info = env.step(policy.act(observation))
            distance.append(info["measures"]["target_error"])
        ends = range(TARGET_STEPS, len(distance) + 1, TARGET_STEPS)
        errors += [np.mean(distance[end - LAST : end]) for end in ends]
    found = np.array(errors)
    print(f"{len(found)} targets in {given.episodes} episodes: median {np.median(found):.4f} m")
    for limit in LIMITS:
        print(f"within {limit:g} m: {np.mean(found < limit):.1%}")


if __name__ == "__main__":
    main()
