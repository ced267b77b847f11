"""Domain randomization: how one simulated robot differs from the next."""
