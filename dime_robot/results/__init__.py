"""Finished runs as tables and figures. Loads no learning framework."""
