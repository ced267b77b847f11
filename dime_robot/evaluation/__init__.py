"""Evaluation of policies: episodes, statistics, robustness, videos."""
