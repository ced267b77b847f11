"""A training run: its folder, its checkpoints, and the lineage of its policy."""
