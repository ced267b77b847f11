"""Returns over several steps, put together from a replay buffer when a batch is drawn.

From the drawn transition on, up to n transitions of the same environment follow one another. A
transition is followed by its environment's next one if it did not terminate and the next one begins
with the observation that it ended with; so a return stops at terminations, at time limits, where an
episode was dropped, and at the newest transition. The rewards are summed with their discounts, and
the entropy of the actions in between is left out: it is unknown for actions of an earlier policy.
"""

from __future__ import annotations

import torch

from dime_robot.learning.replay_buffer import Batch, ReplayBuffer


def n_step_batch(
    replay: ReplayBuffer, size: int, generator: torch.Generator, n: int, discount: float
) -> Batch:
    """Draw transitions uniformly with replacement, each with the return of up to `n` steps.

    The value after k steps counts with discount^k, which is the learner's discount times
    1 - `terminated`: of a row of k steps `terminated` is 1 - discount^(k - 1), or 1.

    Args:
        replay: to draw from.
        size: number of rows.
        generator: of the draws.
        n: most steps of a return.
        discount: gamma, per control step [1].
    """
    slots = replay.drawn(size, generator)
    first = last = replay.at(slots)
    reward = first.reward.clone()
    goes_on = torch.ones_like(slots, dtype=torch.bool)
    weight = torch.ones_like(reward)  # discount^(k - 1)
    for _ in range(n - 1):
        slots, exists = replay.following(slots)
        further = replay.at(slots)
        same = (further.obs == last.next_obs).all(dim=1)
        goes_on = goes_on & exists & same & (last.terminated == 0)
        weight = torch.where(goes_on, weight * discount, weight)
        reward = reward + torch.where(goes_on, weight * further.reward, 0.0)
        chosen = goes_on[:, None]
        last = Batch(
            last.obs,
            last.action,
            torch.where(chosen, further.next_obs, last.next_obs),
            last.reward,
            torch.where(goes_on, further.terminated, last.terminated),
        )
    lost = 1 - weight * (1 - last.terminated)
    return Batch(first.obs, first.action, last.next_obs, reward, lost)
