"""How one simulated robot differs from the next."""
