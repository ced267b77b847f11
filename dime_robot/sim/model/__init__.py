"""MuJoCo models: loading within bounds, and comparison with the contract."""
