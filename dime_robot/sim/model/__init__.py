"""A MuJoCo model: loaded within bounds, and compared with the contract."""
