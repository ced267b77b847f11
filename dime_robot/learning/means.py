"""RunningMeans: means over updates, summed on the device and read once per logging interval."""

from __future__ import annotations

import torch
from torch import Tensor


class RunningMeans:
    """Running sums of named scalars. Adding never waits for the device; reading does."""

    def __init__(self, names: tuple[str, ...], device: torch.device) -> None:
        self._names = names
        self._sums = torch.zeros(len(names) + 1, device=device)
        self._one = torch.ones((), device=device)

    @torch.no_grad()
    def add(self, *values: Tensor) -> None:
        """Add one scalar per name."""
        self._sums += torch.stack([*(value.float() for value in values), self._one])

    def read(self) -> dict[str, float]:
        """Return name -> mean since the last reading; empty if nothing was added since."""
        *sums, count = self._sums.tolist()
        self._sums.zero_()
        return {name: total / count for name, total in zip(self._names, sums, strict=True) if count}
