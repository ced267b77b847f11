"""What a policy achieves: episodes, statistics, robustness, videos."""
