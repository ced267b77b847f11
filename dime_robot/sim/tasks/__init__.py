"""The robot tasks: how an episode begins, what it rewards, when it ends."""
