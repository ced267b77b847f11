"""The noise of a diffusion sampler, from one seeded generator.

Modes:
    fresh  every action draws the prior and all step noises anew, as in training and in the paper
    held   one draw is used until `reset`
    zero   no noise: the chain starts at 0 and follows its mean
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from dime_robot.runtime.contract.policy_spec import Float32Array
from dime_robot.runtime.io.errors import InputError

NoiseMode = Literal["fresh", "held", "zero"]
NOISE_MODES: tuple[NoiseMode, ...] = ("fresh", "held", "zero")
NOISE_LEGEND = (  # shown with results of the modes
    "fresh: new noise for every action, as in training",
    "held:  one draw of the noise for a whole episode",
    "zero:  no noise, the sampler follows its mean",
)


def require_mode(mode: object) -> None:
    """Refuse what is no noise mode.

    Raises:
        InputError: it is none.
    """
    if mode not in NOISE_MODES:
        raise InputError(f"noise: expected one of {', '.join(NOISE_MODES)}, got {mode!r:.60}")


def require_seed(seed: object) -> None:
    """Refuse what no random generator takes as a seed.

    Raises:
        InputError: no whole number, or a negative one.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed: expected a whole number of 0 or more, got {seed!r:.60}")


class NoiseSource:
    """Draws the unit normals of one action after the other into the same buffer.

    Args:
        shape: (N+1, d): the prior draw first, then one per diffusion step.
        seed: of the generator.
        mode: see the module's docstring.

    Raises:
        InputError: no such mode, or no such seed.
    """

    def __init__(self, shape: tuple[int, ...], seed: int, mode: NoiseMode) -> None:
        require_mode(mode)
        require_seed(seed)
        self.values: Float32Array = np.zeros(shape, dtype=np.float32)
        self.mode = mode
        self._generator = np.random.default_rng(seed)
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode: `held` draws anew; a seed restarts the generator."""
        if seed is not None:
            require_seed(seed)
            self._generator = np.random.default_rng(seed)
        if self.mode == "held":
            self._fill()

    def draw(self) -> Float32Array:
        """Return the noise of the next action: `values`, which the next call overwrites."""
        if self.mode == "fresh":
            self._fill()
        return self.values

    def _fill(self) -> None:
        self._generator.standard_normal(out=self.values, dtype=np.float32)
