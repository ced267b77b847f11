"""The low-level interface of a Unitree Go2: its messages, and what its driver may send."""
