"""The robot tasks: start, reward and end of an episode."""
