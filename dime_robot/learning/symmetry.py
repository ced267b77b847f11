"""Symmetry augmentation: a sampled transition is replaced by its mirror image half of the time.

A symmetric robot's mirror image obeys the same physics: if (s, a, r, s') can happen, so can
(Ms, Ma, r, Ms'), with M the signed permutation of `sim/config/symmetry.py`, provided that the
rewards do not tell left from right. Source: Mittal et al., Symmetry Considerations for Learning
Task Symmetric Robot Policies (ICRA 2024), data augmentation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dime_robot.learning.replay_buffer import Batch

SHARE = 0.5  # of transitions that are mirrored


class BatchMirror:
    """Mirrors some transitions of a batch, at random; only tensor operations of fixed shape.

    Args:
        observation_index: mirrored[i] = sign[i] * given[index[i]], shape (n_obs,).
        observation_sign: 1 or -1, shape (n_obs,).
        action_index: the same of actions, shape (n_act,).
        action_sign: 1 or -1, shape (n_act,).
        device: of the batches.
    """

    def __init__(
        self,
        observation_index: npt.NDArray[np.intp],
        observation_sign: npt.NDArray[np.floating[Any]],
        action_index: npt.NDArray[np.intp],
        action_sign: npt.NDArray[np.floating[Any]],
        device: torch.device,
    ) -> None:
        self._observation = _on(device, observation_index, observation_sign)
        self._action = _on(device, action_index, action_sign)

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch with each row mirrored with probability `SHARE`.

        Reward and `terminated` stay; a row keeps its place.

        Args:
            batch: B transitions, of one step or of several.
            generator: of one uniform number per row.
        """
        size = (len(batch.reward), 1)
        chosen = torch.rand(size, generator=generator, device=batch.reward.device) < SHARE
        return batch._replace(
            obs=_mirrored(batch.obs, self._observation, chosen),
            action=_mirrored(batch.action, self._action, chosen),
            next_obs=_mirrored(batch.next_obs, self._observation, chosen),
        )


_Image = tuple[Tensor, Tensor]  # index and sign, shape (n,) each


def _on(
    device: torch.device, index: npt.NDArray[np.intp], sign: npt.NDArray[np.floating[Any]]
) -> _Image:
    return (
        torch.as_tensor(index, dtype=torch.int64, device=device),
        torch.as_tensor(sign, dtype=torch.float32, device=device),
    )


def _mirrored(values: Tensor, image: _Image, chosen: Tensor) -> Tensor:
    index, sign = image
    return torch.where(chosen, values.index_select(1, index) * sign, values)
