"""A training run: its folder, its checkpoints, and where its policy comes from."""
