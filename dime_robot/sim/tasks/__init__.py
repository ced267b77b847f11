"""Tasks: how an episode starts, what is commanded and rewarded, and when it ends, in terms."""
