"""ROS 2 nodes: the policy on a robot, the simulated robot, latency monitoring.

They turn messages into calls of `dime_robot.runtime`, and its decisions into messages.
"""
