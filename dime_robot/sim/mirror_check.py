"""Whether a task does not tell left from right: mirrored transitions have the same rewards.

Symmetry augmentation (`learning/symmetry.py`) shows the learner mirrored transitions. They are only
true if model, commands and rewards are their own mirror images, which is checked here: a nominal
robot and one that begins at its mirror image, follows mirrored commands and takes mirrored actions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mujoco
import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.sim.config.randomization import LatencyConfig
from dime_robot.sim.config.robot_task import RobotTaskConfig, require_task
from dime_robot.sim.config.symmetry import VELOCITY as VELOCITY_SIGNS
from dime_robot.sim.config.task import VELOCITY
from dime_robot.sim.model.loading import load_model
from dime_robot.sim.model.mirror import Reflection, asymmetry
from dime_robot.sim.plant.plant import Plant
from dime_robot.sim.robot_env import RobotEnv
from dime_robot.sim.tasks.task import Task

EPISODES, STEPS, SEED = 12, 6, 7  # short, since contacts multiply small differences
# of a number from its mirror image, in the mean: models are not exact, nor are contacts
ABSOLUTE, RELATIVE = 2e-3, 0.05
TURNING = ("linear_y", "angular_z")  # ranges of a velocity that change sign in the mirror


def mirror_problem(config: RobotTaskConfig, model: Path, privileged: bool = False) -> str | None:
    """Return the first way in which a task is not its own mirror image; None: it is.

    Args:
        config: of a robot with a task and a section `symmetry:`.
        model: its MJCF file.
        privileged: check what only critics see too.

    Raises:
        InputError: an observation has no mirror image, or a term fails.
    """
    assert config.symmetry is not None
    found = asymmetry(
        load_model(model, config.sim.timestep), config.policy, config.sim, config.symmetry
    )
    if found is not None:
        return f"{model}: {found}"
    nominal = config.model_copy(
        update={"randomization": (), "latency": LatencyConfig(), "curriculum": ()}
    )
    for problem in _one_sided_commands(config):
        return problem
    return _unequal_transition(nominal, model, privileged)


def _one_sided_commands(config: RobotTaskConfig) -> Iterator[str]:
    """Yield commanded velocities whose ranges are not their own mirror image."""
    levels = [config.at_level(i) for i in range(len(config.curriculum))]
    places = [
        "task",
        *(f"curriculum.{level.name}.task" for level in config.curriculum),
    ]
    for place, each in zip(places, [config, *levels], strict=True):
        entry = require_task(each).commands.get(VELOCITY)
        if entry is None or entry.term != "uniform_velocity":
            continue
        for name in TURNING:
            low, high = entry.parameters.get(name, (0.0, 0.0))
            if abs(low + high) > 1e-6:
                yield (
                    f"{config.source}: {place}.commands.{VELOCITY}.{name}: expected a range around"
                    f" 0, whose mirror image it is itself, got [{low:g}, {high:g}]"
                )


class _MirroredTask(Task):
    """A task whose episodes begin at the mirror image of another's, with its mirrored commands."""

    def __init__(
        self, config: RobotTaskConfig, plant: Plant, other: RobotEnv, privileged: bool
    ) -> None:
        self._other: RobotEnv | None = None  # until then this is a task like any other
        super().__init__(config, plant, privileged)
        assert config.symmetry is not None
        self._other, self._symmetry = other, config.symmetry
        self._reflection = Reflection(plant.model, config.policy, config.sim, config.symmetry)

    def start(self, rng: np.random.Generator) -> None:
        super().start(rng)
        if self._other is None:
            return
        plant, given = self._plant, self._other.plant
        names = [joint.name for joint in self._view.spec.joints]
        partners = self._symmetry.partners()
        # the drives' first targets follow from a reset, all else from the reflected state
        positions = {
            partners[name][0]: partners[name][1] * value
            for name, value in zip(names, given.joint_position().tolist(), strict=True)
        }
        plant.reset({**plant.default_pose, **positions}, self._view.start.height)
        self._reflection.apply(given.data, plant.data)
        mujoco.mj_forward(plant.model, plant.data)
        self._view.placed()
        for name, value in self._other.task.commands.items():
            self.set_command(name, _mirrored_command(name, value, self))


def _mirrored_command(name: str, value: FloatArray, task: _MirroredTask) -> FloatArray:
    """Return the mirror image of a command; of one that nothing describes, the same."""
    symmetry, spec = task._symmetry, task._view.spec
    signs: tuple[int, ...] | None = VELOCITY_SIGNS if name == VELOCITY else None
    for term in spec.observation:
        if term.kind == "command" and term.signal_name == name:
            signs = symmetry.terms.get(term.name)
    if signs is None or len(signs) != len(value):
        return value
    mirrored: FloatArray = np.array(signs, dtype=float) * value
    return mirrored


def _unequal_transition(config: RobotTaskConfig, model: Path, privileged: bool) -> str | None:
    """Compare rewards and observations of short episodes with those of the mirrored robot."""
    ours, theirs = (
        RobotEnv(config.policy.name, variant=(config, model), privileged=privileged)
        for _ in range(2)
    )
    image = ours.mirror()
    theirs.task = theirs._whole = _MirroredTask(config, theirs.plant, ours, privileged)
    random = np.random.default_rng(SEED)
    seen = _Pairs()
    rewarded = _Pairs()
    for episode in range(EPISODES):
        seen.add(image.observation(ours.reset(seed=episode)[0]), theirs.reset(seed=episode)[0])
        for _ in range(STEPS):
            action = random.uniform(-1, 1, config.policy.n_act).astype(np.float32)
            observed, _, terminated, truncated, _ = ours.step(action)
            seen.add(image.observation(observed), theirs.step(image.action(action))[0])
            rewarded.add(*(np.array(list(each.task.rewards.values())) for each in (ours, theirs)))
            if terminated or truncated:
                break
    if (found := rewarded.worst()) is not None:
        number, expected, got = found
        return (
            f"{config.source}: task.rewards.{list(ours.task.rewards)[number]}: expected"
            f" {expected:.4g} for the mirror image of a step too, got {got:.4g}: it tells left from"
            " right, so leave it out, or train without mirrored transitions"
        )
    if (found := seen.worst()) is not None:
        number, expected, got = found
        return (
            f"{config.source}: {_name_of(number, config, ours)}: expected {expected:.4g} in the"
            f" mirror image of a step, got {got:.4g}: check signs and partners in `symmetry:`"
        )
    return None


class _Pairs:
    """Numbers that should be the same, of several steps."""

    def __init__(self) -> None:
        self._expected: list[FloatArray] = []
        self._got: list[FloatArray] = []

    def add(self, expected: FloatArray, got: FloatArray) -> None:
        """Add those of a step.

        Args:
            expected: shape (n,).
            got: shape (n,).
        """
        self._expected.append(np.array(expected, dtype=float))
        self._got.append(np.array(got, dtype=float))

    def worst(self) -> tuple[int, float, float] | None:
        """Return which number differs in the mean over the steps, and both where they differ most.

        None: none does. A foot may touch the ground a little earlier than its image: one step is no
        reason.
        """
        expected, got = np.array(self._expected), np.array(self._got)
        error = np.abs(expected - got)
        excess = error.mean(axis=0) - ABSOLUTE - RELATIVE * np.abs(expected).mean(axis=0)
        number = int(excess.argmax())
        if excess[number] <= 0:
            return None
        step = int(error[:, number].argmax())
        return number, float(expected[step, number]), float(got[step, number])


def _name_of(number: int, config: RobotTaskConfig, env: RobotEnv) -> str:
    """Return which term of an observation a number belongs to, and its place there."""
    sizes = {f"observation term {term.name}": term.size for term in config.policy.observation}
    sizes |= {f"task.privileged.{name}": size for name, size in env.privileged_sizes.items()}
    for name, size in sizes.items():
        if number < size:
            return f"{name}, number {number}"
        number -= size
    raise AssertionError("expected a number of the observation")
