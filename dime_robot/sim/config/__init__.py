"""What a file in `sim_configs/` may say."""
