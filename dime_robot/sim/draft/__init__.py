"""Draft of a configuration: `python -m dime_robot.config new`."""
