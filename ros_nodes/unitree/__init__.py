"""A Unitree Go2 on its own wire: its driver, and a simulated one to rehearse with."""
