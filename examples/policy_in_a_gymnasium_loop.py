"""Run a policy in a plain Gymnasium loop: `predict` returns actions in the environment's units."""

import gymnasium

import dime_robot.sim.registration  # noqa: F401  registers the robot tasks
from dime_robot import load_policy

policy = load_policy("results/sim-cartpole.onnx")
env = gymnasium.make("dime_robot/cartpole-v0")
observation, _ = env.reset(seed=0)
total, done = 0.0, False
while not done:
    action, _ = policy.predict(observation)
    observation, reward, terminated, truncated, _ = env.step(action)
    total += float(reward)
    done = terminated or truncated
env.close()
print(f"return {total:.1f}")
