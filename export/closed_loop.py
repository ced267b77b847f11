"""Proof that the graph has the torch actor's return, each in its own closed loop.

Both run the same episodes: same seeds, same noise. D is the difference of an episode's returns,
graph minus torch. G is the gain: torch's mean return minus that of uniformly random actions on the
same seeds. The proof succeeds if

- no action of any episode differs by more than 1e-3 in 20 episodes: the two loops are equal; or
- the confidence interval of the mean of D is inside +-5 % of |G|.

This is an equivalence test: with little data the interval is wide and the proof fails. It has two
stages, after 20 episodes and, if undecided, after 200. The error level of 5 % is split evenly
between the stages (Bonferroni): each uses Student's interval at 97.5 %, so that both hold together
with 95 %. An interval outside the bounds after 20 episodes is a failure at once, unless G may be 0.
G is estimated from the same episodes and treated as exact; Student's interval assumes that means of
20 or 200 differences are about normal.

If random actions have the same return (after 200 episodes the 95 % interval of G includes 0) there
is no gain to compare with. The interval then has to be inside half a standard deviation of the
returns.
That tolerance is never used for a policy that has shown a gain.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import stats

from dime_robot.evaluation.rollout import Evaluation, Evaluator, FloatArray, Policy, random_policy
from dime_robot.runtime.io.errors import InputError

STAGES = (20, 200)  # episodes after which the proof may end
CONFIDENCE = 1 - 0.05 / len(STAGES)
TOLERANCE = 0.05  # share of the gain over random actions
UNTRAINED_TOLERANCE = 0.5  # standard deviations of the returns
DIVERGED = 1e-3  # action difference above which two closed loops have diverged
REPEATED_EPISODES = 3
MAX_VISITED = 5000
_SEED = 11
Returns = npt.NDArray[np.float64]


class CertificateError(Exception):
    """The graph is not proven equal to the policy. The message is one sentence."""


@dataclass(frozen=True)
class Loop:
    """Torch actor and graph in the same episodes."""

    returns_torch: Returns  # Shape (episodes,)
    returns_onnx: Returns
    returns_random: Returns  # of uniformly random actions
    visited: FloatArray  # observations in torch's episodes, shape (K, n_obs)
    noise: FloatArray  # drawn there, shape (K, N+1, d)
    first_divergence: int | None  # earliest step, counted from 1; None: never


@dataclass(frozen=True)
class Verdict:
    """The result of the test at one stage."""

    interval: tuple[float, float]  # of the mean of D
    allowed: float  # bound on the interval's magnitude
    gain: float  # G
    passed: bool
    failed: bool  # neither: undecided
    reason: str = ""


@dataclass
class _Recorder:
    """A policy that records its actions and, optionally, its inputs."""

    policy: Policy
    observations: list[FloatArray] = field(default_factory=list)
    noises: list[FloatArray] = field(default_factory=list)
    actions: list[FloatArray] = field(default_factory=list)
    keep_inputs: bool = False

    def __call__(self, obs: FloatArray, noise: FloatArray) -> FloatArray:
        result = self.policy(obs, noise)
        self.actions.append(result.copy())
        if self.keep_inputs:
            self.observations.append(obs.copy())
            self.noises.append(noise.copy())
        return result


def actions_by_episode(calls: list[FloatArray], evaluation: Evaluation) -> list[FloatArray]:
    """Sort recorded actions by episode.

    Args:
        calls: recorded actions, one array of shape (episodes running, d) per call.
        evaluation: the episodes.

    Returns:
        Shape (length, d) for each episode.
    """
    lengths = np.array([episode.length for episode in evaluation.episodes])
    actions_of: list[list[FloatArray]] = [[] for _ in lengths]
    call = first = 0
    while first < len(lengths):
        parallel = len(calls[call])
        for step in range(lengths[first : first + parallel].max()):
            running = first + np.flatnonzero(lengths[first : first + parallel] > step)
            for episode, action in zip(running, calls[call], strict=True):
                actions_of[episode].append(action)
            call += 1
        first += parallel
    return [np.stack(actions) for actions in actions_of]


def first_divergence(first: list[FloatArray], second: list[FloatArray]) -> int | None:
    """Return the earliest step of any episode at which actions differ, or only one loop has one.

    Args:
        first: actions of every episode, each of shape (length, d).
        second: those to compare with, each of shape (length, d).
    """
    found = []
    for a, b in zip(first, second, strict=True):
        common = min(len(a), len(b))
        apart = np.flatnonzero(~(np.abs(a[:common] - b[:common]).max(axis=1) <= DIVERGED))
        if len(apart):
            found.append(int(apart[0]) + 1)
        elif len(a) != len(b):
            found.append(common + 1)
    return min(found, default=None)


def require_repeatable(evaluator: Evaluator, env_name: str, policy: Policy) -> None:
    """Run the same policy twice under one seed.

    Raises:
        InputError: the environment did not behave the same.
    """
    runs = []
    for _ in range(2):
        recorder = _Recorder(policy)
        evaluation = evaluator.run(recorder, REPEATED_EPISODES, (_SEED, 0))
        runs.append((evaluation, actions_by_episode(recorder.actions, evaluation)))
    (first, first_actions), (second, second_actions) = runs
    if first.returns != second.returns or first_divergence(first_actions, second_actions):
        raise InputError(
            f"{env_name} does not repeat itself under a seed: the same policy earned"
            f" {first.returns[0]:.6g} and then {second.returns[0]:.6g} from the same seed, so the"
            " graph cannot be compared; expected reset(seed=...) to determine everything that is"
            " random"
        )


def free_run(env_name: str, torch: Policy, onnx: Policy, shape: tuple[int, int]) -> Loop:
    """Run both policies until the test is decided.

    Args:
        env_name: the environment.
        torch: the actor.
        onnx: the graph.
        shape: (N+1, d), the noise of one action.

    Raises:
        InputError: the environment is not reproducible.
    """
    evaluator = Evaluator(env_name, shape)
    try:
        require_repeatable(evaluator, env_name, torch)
        returns: list[list[float]] = [[], [], []]
        visited: tuple[FloatArray, FloatArray] | None = None
        divergences: list[int] = []
        for until in STAGES:
            count, seed = until - len(returns[0]), (_SEED, until)
            actor, graph = _Recorder(torch, keep_inputs=visited is None), _Recorder(onnx)
            by_torch, by_graph, by_random = (
                evaluator.run(policy, count, seed) for policy in (actor, graph, random_policy)
            )
            for kept, evaluation in zip(returns, (by_torch, by_graph, by_random), strict=True):
                kept += evaluation.returns
            apart = first_divergence(
                actions_by_episode(actor.actions, by_torch),
                actions_by_episode(graph.actions, by_graph),
            )
            divergences += [] if apart is None else [apart]
            visited = visited or _sample_inputs(actor)
            by_torch_all, by_graph_all, by_random_all = (np.array(kept) for kept in returns)
            loop = Loop(
                returns_torch=by_torch_all,
                returns_onnx=by_graph_all,
                returns_random=by_random_all,
                visited=visited[0],
                noise=visited[1],
                first_divergence=min(divergences, default=None),
            )
            verdict = judge(loop)
            if verdict.passed or verdict.failed:
                break
        return loop
    finally:
        evaluator.close()


def _sample_inputs(actor: _Recorder) -> tuple[FloatArray, FloatArray]:
    """Return at most MAX_VISITED of the recorded inputs, evenly over all episodes."""
    obs, noise = np.concatenate(actor.observations), np.concatenate(actor.noises)
    rows = np.unique(np.linspace(0, len(obs) - 1, MAX_VISITED).astype(int))
    return obs[rows], noise[rows]


def paired_interval(difference: Returns, confidence: float) -> tuple[float, float]:
    """Return Student's interval of the mean of paired differences; a point if all are equal.

    Args:
        difference: one number per pair.
        confidence: level of the interval [1].
    """
    mean = float(difference.mean())
    if np.ptp(difference) == 0:
        return mean, mean
    low, high = stats.t.interval(
        confidence, len(difference) - 1, loc=mean, scale=stats.sem(difference)
    )
    return float(low), float(high)


def judge(loop: Loop) -> Verdict:
    """Test the returns so far; see the module's docstring. The last stage decides."""
    last = len(loop.returns_torch) >= STAGES[-1]
    low, high = paired_interval(loop.returns_onnx - loop.returns_torch, CONFIDENCE)
    gain = loop.returns_torch - loop.returns_random
    scale = abs(float(gain.mean()))
    allowed, basis = TOLERANCE * scale, f"{TOLERANCE:.0%} of the {scale:.2f} that the policy"
    basis += " earns more than random actions"
    gain_low, gain_high = paired_interval(gain, 0.95)
    untrained = gain_low <= 0 <= gain_high
    if last and untrained:
        spread = float(loop.returns_torch.std(ddof=1))
        if UNTRAINED_TOLERANCE * spread > allowed:
            allowed = UNTRAINED_TOLERANCE * spread
            basis = "half the returns' standard deviation, as random actions earn the same"
    inside = -allowed <= low and high <= allowed
    passed = inside or loop.first_divergence is None
    outside = high < -allowed or low > allowed
    undecided = "" if outside else " (too wide to decide: the returns vary a lot; train further)"
    reason = (
        f"closed loop: over {len(loop.returns_torch)} episodes the graph's mean return is"
        f" {loop.returns_onnx.mean():.2f}, torch's {loop.returns_torch.mean():.2f}, that of random"
        f" actions {loop.returns_random.mean():.2f}; the difference has the 95 % interval"
        f" [{low:.2f}, {high:.2f}]{undecided}, expected inside +-{allowed:.2f}, {basis}"
    )
    return Verdict(
        interval=(low, high),
        allowed=allowed,
        gain=float(gain.mean()),
        passed=passed,
        failed=not passed and (last or (outside and not untrained)),
        reason=reason,
    )
