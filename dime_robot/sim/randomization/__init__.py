"""Domain randomization: random variation of the simulated robot's parameters."""
