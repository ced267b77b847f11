"""ROS 2 nodes: the policy on a robot, the simulated robot, latency monitoring.

They convert messages to calls of `dime_robot.runtime`, and its decisions to messages.
"""
