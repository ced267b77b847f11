"""Latency measurements, and the replay of recordings."""
