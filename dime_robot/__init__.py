"""dime_robot: the runtime that takes a diffusion policy from MuJoCo to a robot."""

__version__ = "0.1.0"
