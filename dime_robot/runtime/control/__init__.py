"""From a robot's readings to a safe command, with the clock handed in."""
