"""Data only: robots, tasks and their models."""
