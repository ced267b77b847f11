"""The simulated robot: MuJoCo behind the same RobotState and JointCommand as a real one."""
