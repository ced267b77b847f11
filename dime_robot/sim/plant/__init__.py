"""The simulated robot: physics, joint drives and delays."""
