"""ROS 2 nodes: the policy on a robot, the simulated robot, latency monitoring.

Thin shells: what they do with a state or a command is in `dime_robot.runtime`.
"""
