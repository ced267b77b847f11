"""DIME in PyTorch: the sampler and its entropy bound, the networks, the update, the replay data."""
