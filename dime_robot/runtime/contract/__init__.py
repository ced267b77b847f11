"""A policy's contract, a robot's configuration, and the check whether the two are compatible."""
