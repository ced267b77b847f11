"""Compute a policy's actions: a checkpoint and a policy.onnx have the same interface."""

import dime_robot as dr

policy = dr.load_policy("results/sim-cartpole.onnx")
print(policy.spec.name, "at", policy.spec.rate, "Hz")
print("one action      ", policy.act([0.0] * policy.spec.n_obs))
print("several at once ", policy.act([[0.0] * policy.spec.n_obs] * 3))
