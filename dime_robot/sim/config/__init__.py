"""Configuration files in `sim_configs/`."""
