"""From a robot's readings to a safe command, with the time as an argument."""
