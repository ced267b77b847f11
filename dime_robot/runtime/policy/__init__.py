"""An exported policy: its file, what was proven about it, and its inference session."""
