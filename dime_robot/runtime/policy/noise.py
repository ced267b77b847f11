"""The noise that drives a diffusion sampler, from one seeded generator.

Modes:
    fresh  every action draws the prior and all step noises anew, as in training and in the paper
    held   one draw serves until `reset`
    zero   no noise at all: the chain starts at 0 and follows its mean
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

NoiseMode = Literal["fresh", "held", "zero"]
NOISE_MODES: tuple[NoiseMode, ...] = ("fresh", "held", "zero")
NOISE_LEGEND = (  # wherever results of the modes are shown
    "fresh: new noise for every action, as in training",
    "held:  one draw of the noise for a whole episode",
    "zero:  no noise, the sampler follows its mean",
)


class NoiseSource:
    """Unit normals of one action after the other, always in the same buffer.

    Args:
        shape: (N+1, d): the prior draw first, then one per diffusion step.
        seed: of the generator.
        mode: see the module's docstring.
    """

    def __init__(self, shape: tuple[int, ...], seed: int, mode: NoiseMode) -> None:
        self.values: npt.NDArray[np.float32] = np.zeros(shape, dtype=np.float32)
        self.mode = mode
        self._generator = np.random.default_rng(seed)
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode: `held` draws anew; a seed starts the generator over."""
        if seed is not None:
            self._generator = np.random.default_rng(seed)
        if self.mode == "held":
            self._fill()

    def draw(self) -> npt.NDArray[np.float32]:
        """The noise of the next action: `values`, which the next call overwrites."""
        if self.mode == "fresh":
            self._fill()
        return self.values

    def _fill(self) -> None:
        self._generator.standard_normal(out=self.values, dtype=np.float32)
