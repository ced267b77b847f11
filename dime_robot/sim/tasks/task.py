"""Task: starts, commands, rewards and ends episodes, assembled from the terms of a file."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.io.errors import InputError, in_one_line
from dime_robot.sim.config.robot_task import RobotTaskConfig, require_task
from dime_robot.sim.config.symmetry import Mirror, SymmetryConfig, mirror
from dime_robot.sim.config.task import PRIVILEGED, SECTIONS, VELOCITY, TaskConfig, TermConfig
from dime_robot.sim.plant.plant import Plant
from dime_robot.sim.tasks import lookup
from dime_robot.sim.tasks.mirrored import image_of
from dime_robot.sim.tasks.view import TaskView

DRAWN = ("reset", "commands")  # sections that are asked when an episode begins
_KEY = re.compile(r"[A-Za-z_]\w*(\.[^\s:]+)*: ")  # of a parameter, in a message


class _Term(NamedTuple):
    """A term of the file, ready to be called."""

    where: str  # file, section and name, for messages
    name: str
    entry: TermConfig
    call: Callable[[], Any]


class Task:
    """Starts, commands, rewards and ends episodes, from the true state of a plant.

    Everything that the package needs of a task is here; nothing asks which terms it consists of.

    Args:
        config: the configuration of a robot with a task.
        plant: its robot.
        privileged: make the terms that only critics see (`task.privileged`) too.

    Raises:
        InputError: the configuration has no task, the first of `problems`, or a term fails when it
            is made and called for the first time.

    Attributes:
        config: the section `task:`.
        commands: name -> current value, shape (size,), in the command's unit.
        metrics: of the last step, name -> number.
        privileged_sizes: numbers of each term that only critics see, by name.
    """

    def __init__(self, config: RobotTaskConfig, plant: Plant, privileged: bool = False) -> None:
        self.config = require_task(config)
        self._plant, self._source = plant, config.source
        self._place = functools.partial(_place, config.source)
        self._view = TaskView(config.policy, plant, self.config.episode_seconds)
        self._fixed: dict[str, FloatArray] = {}  # commands that are set, not drawn
        self.commands = self._view.commands
        self.metrics: dict[str, float] = {}
        self._terminated = self._succeeds = False
        self._terms: dict[str, list[_Term]] = {section: [] for section in SECTIONS}
        for section, name, entry in self.config.entries():
            if section == PRIVILEGED and not privileged:
                continue
            where = self._place(f"{section}.{name}")
            with _named(where):
                term = _checked(section, entry, config.source)
                call = lookup.bound(term, entry.parameters, self._view)
            self._terms[section].append(_Term(where, name, entry, call))
        period = config.policy.period
        self._redraws = [
            (term, max(1, round(term.entry.resample / period)))
            for term in self._terms["commands"]
            if term.entry.resample is not None
        ]
        self._resets = {
            section: [
                (term.where, reset)
                for term in terms
                if (reset := getattr(getattr(term.call, "func", None), "reset", None)) is not None
            ]
            for section, terms in self._terms.items()
        }
        self._product = self.config.combine == "product"
        self.privileged_sizes: dict[str, int] = {}
        self._try()

    # ---- episodes

    def start(self, rng: np.random.Generator) -> None:
        """Reset the plant for an episode, and draw the commands.

        Args:
            rng: of all draws of the episode.
        """
        view = self._view
        view.begin(rng)
        self._terminated = self._succeeds = False
        self._begin_terms("reset")
        for term in self._terms["reset"]:
            self._call(term)
        start, positions = view.start, dict(self._plant.default_pose)
        positions |= start.positions
        self._plant.reset(positions, start.height)
        for change in start.then:
            with _named(self._place("reset")):
                change(self._plant.model, self._plant.data)
        if start.then:
            mujoco.mj_forward(self._plant.model, self._plant.data)
        view.placed()
        self._begin_terms("commands")
        for term in self._terms["commands"]:
            self._draw(term)
        self._begin_terms(*(section for section in SECTIONS if section not in DRAWN))

    def step(self, command: JointCommand, rng: np.random.Generator) -> float:
        """Return the reward of the period of `command`; call it at the period's end.

        Args:
            command: that the robot followed.
            rng: of the draws of new commands.

        Raises:
            InputError: a term of the user's own fails, or returns what it must not.
        """
        view = self._view
        view.rng = rng
        view.advance(command)
        reward = self._reward()
        self._terminated = False
        for term in self._terms["terminations"]:
            self._terminated = self._truth(term) or self._terminated
        succeeds = True
        for term in self._terms["success"]:  # all of them, since some count steps
            succeeds = self._truth(term) and succeeds
        self._succeeds = succeeds and not self._terminated
        self.metrics = {term.name: self._number(term) for term in self._terms["metrics"]}
        for term, steps in self._redraws:
            if view.step % steps == 0:
                self._draw(term)
        return reward

    def terminated(self) -> bool:
        """Whether the episode has ended, apart from the time limit."""
        return self._terminated

    def is_success(self) -> bool | None:
        """Whether the success criterion holds at this step; None: the task states none."""
        return self._succeeds if self._terms["success"] else None

    @property
    def rewards(self) -> dict[str, float]:
        """Rewards of the last step with their weights, name -> number."""
        return dict(self._view.rewards)

    # ---- commands and sensors

    @property
    def command_velocity(self) -> FloatArray | None:
        """The commanded velocity, shape (3,) [m/s, m/s, rad/s]; None: the task has none."""
        return self.commands.get(VELOCITY)

    def set_command(self, name: str, value: FloatArray | None) -> None:
        """Fix a command instead of drawing it.

        Args:
            name: of the command.
            value: in the command's unit, shape (size,); None: draw it again.

        Raises:
            InputError: the task has no such command, or it has another size.
        """
        current = self._view.commanded(name)
        if value is None:
            self._fixed.pop(name, None)
            return
        fixed = np.array(value, dtype=float)
        if fixed.shape != current.shape:
            raise InputError(
                f"command {name}: expected {len(current)} numbers, got shape {fixed.shape}"
            )
        self._fixed[name] = self.commands[name] = fixed
        self._view.show(name)

    def sensors(self) -> dict[str, FloatArray]:
        """Return the values of `task.observations`: name -> array, shape (size,)."""
        self._view.forget()
        return {term.name: self._array(term) for term in self._terms["observations"]}

    def privileged(self) -> FloatArray:
        """Return what only critics see, shape (n_privileged,), in the order of the file.

        Raises:
            InputError: a term of the user's own fails, or returns another number of values.
        """
        values = []
        for term in self._terms[PRIVILEGED]:
            value, size = self._array(term), self.privileged_sizes[term.name]
            if len(value) != size:
                raise InputError(
                    f"{term.where}: expected {size} numbers, as at the first call, got {len(value)}"
                )
            values.append(value)
        return np.concatenate(values)

    def mirror(self, symmetry: SymmetryConfig) -> Mirror:
        """Return the mirror image of observations, what only critics see included, and of actions.

        Args:
            symmetry: of the robot.

        Raises:
            InputError: an observation, an action or a privileged value has none.
        """
        try:
            found = mirror(self._view.spec, symmetry)
        except ValueError as error:
            raise InputError(str(error)) from None
        index, sign = [found.observation_index], [found.observation_sign]
        first = len(found.observation_index)
        for term in self._terms[PRIVILEGED]:
            size = self.privileged_sizes[term.name]
            made: Any = term.call  # a partial, see `lookup.bound`
            with _named(term.where):
                image = image_of(term.name, made.func, made.keywords, size, self._view, symmetry)
            index.append(first + image.places)
            sign.append(image.sign)
            first += size
        return found._replace(
            observation_index=np.concatenate(index), observation_sign=np.concatenate(sign)
        )

    def unit_of_metric(self, name: str) -> str:
        """Return the unit of a metric, as its term's docstring states it; empty: it does not.

        Args:
            name: in `task.metrics`.
        """
        entry = self.config.metrics[name]
        return lookup.unit_of(lookup.find("metrics", entry, self._source))

    @property
    def start_height(self) -> float | None:
        """Height of a free base where an episode starts [m]; None: as the model has it."""
        return self._view.start.height

    # ---- terms

    def _begin_terms(self, *sections: str) -> None:
        """Tell the terms of some sections that an episode begins."""
        for section in sections:
            for where, reset in self._resets[section]:
                with _named(where):
                    reset(self._view)

    def _reward(self) -> float:
        rewards, total = self._view.rewards, 1.0 if self._product else 0.0
        for term in self._terms["rewards"]:
            value = term.entry.weight * self._number(term)
            rewards[term.name] = value
            total = total * value if self._product else total + value
        minimum = self.config.minimum_reward
        return total if minimum is None else max(minimum, total)

    def _draw(self, term: _Term) -> None:
        drawn, before = self._array(term), self.commands.get(term.name)
        if before is not None and len(before) != len(drawn):
            raise InputError(f"{term.where}: expected {len(before)} numbers, got {len(drawn)}")
        self.commands[term.name] = self._fixed.get(term.name, drawn)
        self._view.show(term.name)

    def _call(self, term: _Term) -> Any:
        try:
            return term.call()
        except InputError as error:
            raise InputError(f"{term.where}{_joined(str(error))}") from None
        except (Exception, SystemExit) as error:  # a term of the user's own can raise anything
            raise InputError(f"{term.where}: {in_one_line(error)}") from None

    def _number(self, term: _Term) -> float:
        given = self._call(term)
        if type(given) is not float:
            given = self._converted(term, given, "a number", float)
        if not math.isfinite(given):
            raise InputError(f"{term.where}: expected a finite number, got {given}")
        number: float = given
        return number

    def _truth(self, term: _Term) -> bool:
        given = self._call(term)
        if type(given) is not bool:
            given = self._converted(term, given, "true or false", bool)
        truth: bool = given
        return truth

    def _converted(self, term: _Term, given: Any, expected: str, kind: type) -> Any:
        """Return the one number of a NumPy scalar or array as plain Python."""
        array = np.asarray(given) if isinstance(given, np.generic | np.ndarray | int) else None
        if (
            array is None
            or array.size != 1
            or array.dtype.kind not in ("b" if kind is bool else "biuf")
        ):
            raise InputError(f"{term.where}: expected {expected}, got {_shown(given)}")
        return kind(array.reshape(-1)[0])

    def _array(self, term: _Term) -> FloatArray:
        given = self._call(term)
        try:
            array = np.array(given, dtype=float)
        except Exception:  # the conversion of a foreign object can raise anything
            raise InputError(f"{term.where}: expected numbers, got {_shown(given)}") from None
        if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
            raise InputError(
                f"{term.where}: expected a vector of finite numbers, got {_shown(given)}"
            )
        return array

    def _try(self) -> None:
        """Call every term once, so that what is wrong is found before training.

        Raises:
            InputError: a term fails, returns what it must not, or ends episodes where they begin.
        """
        rng = np.random.default_rng(0)
        self.start(rng)
        spec, view = self._view.spec, self._view
        for section, kind in (("commands", "command"), ("observations", "sensor")):
            values = self.commands if section == "commands" else self.sensors()
            for observed in spec.observation:
                if observed.kind != kind:
                    continue
                name = observed.signal_name
                if len(values[name]) != observed.width:
                    raise InputError(
                        f"{self._place(f'{section}.{name}')}: expected {observed.width} numbers, as"
                        f" observation term {observed.name} has, got {len(values[name])}"
                    )
        velocity = self.command_velocity
        if velocity is not None and len(velocity) != 3:
            raise InputError(
                f"{self._place(f'commands.{VELOCITY}')}: expected 3 numbers [m/s, m/s, rad/s], got"
                f" {len(velocity)}"
            )
        for term in self._terms[PRIVILEGED]:
            self.privileged_sizes[term.name] = len(self._array(term))
        command = view.command._replace(value=np.array(view.command.value))
        for term in self._terms["terminations"]:
            if self._truth(term):
                raise InputError(
                    f"{term.where}: holds where an episode starts, so that every episode would end"
                    " there"
                )
        self.step(command, rng)


def problems(task: TaskConfig, source: Path) -> list[str]:
    """Return what is wrong with each term by itself: its name, its parameters, its weight.

    Args:
        task: the section.
        source: path of its file.
    """
    found = (_problem(section, name, entry, source) for section, name, entry in task.entries())
    return [problem for problem in found if problem]


def _problem(section: str, name: str, entry: TermConfig, source: Path) -> str:
    try:
        with _named(_place(source, f"{section}.{name}")):
            lookup.validated(_checked(section, entry, source), entry.parameters)
    except InputError as error:
        return str(error)
    return ""


def _checked(section: str, entry: TermConfig, source: Path) -> lookup.Term:
    """Return the term that an entry names, with a weight that it can have."""
    term = lookup.find(section, entry, source)
    if section == "rewards":
        _largest(term, entry)
    return term


def _place(source: Path, rest: str) -> str:
    """Return the file and the place of something in its task, for a message."""
    return f"{source}: task.{rest}" if source.name else f"task.{rest}"


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Put the place in front of every error."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}{_joined(str(error))}") from None
    except (Exception, SystemExit) as error:  # the user's code can raise anything
        raise InputError(f"{where}: {in_one_line(error)}") from None


def _shown(given: object) -> str:
    """Return what a term has returned, for a message."""
    try:
        return f"{given!r:.60}"
    except Exception:  # as may the user's code
        return f"an object of type {type(given).__name__}"


def _joined(text: str) -> str:
    """Return a message with what separates it from the place in front of it."""
    return f".{text}" if _KEY.match(text) else f": {text}"


def _largest(term: lookup.Term, entry: TermConfig) -> float:
    """Return the largest weighted value of a reward.

    Raises:
        InputError: it is a cost, and its weight is positive.
    """
    declared = getattr(term, "largest", 1.0) if entry.largest is None else entry.largest
    if entry.weight <= 0:
        return 0.0
    if not math.isfinite(declared):
        raise InputError(
            "weight: expected up to 0, since it is a cost (or, where it is meant as a reward,"
            f" `largest`, the largest value it can have), got {entry.weight:g}"
        )
    return entry.weight * float(declared)


def largest_rewards(config: RobotTaskConfig) -> dict[str, float]:
    """Return the largest weighted value of each reward, as far as the terms declare it.

    A term of the user's own that declares nothing (`largest` in its entry, or an attribute of the
    function) counts with 1.

    Args:
        config: of a robot with a task.

    Raises:
        InputError: there is no task, or a term is unknown.
    """
    largest = {}
    for name, entry in require_task(config).rewards.items():
        with _named(_place(config.source, f"rewards.{name}")):
            largest[name] = _largest(lookup.find("rewards", entry, config.source), entry)
    return largest


def largest_reward(config: RobotTaskConfig) -> float:
    """Return the largest combined reward of one control step; see `largest_rewards`.

    Args:
        config: of a robot with a task.

    Raises:
        InputError: there is no task, or a term is unknown.
    """
    largest = largest_rewards(config).values()
    return math.prod(largest) if require_task(config).combine == "product" else sum(largest)


def training_settings(config: RobotTaskConfig) -> dict[str, Any]:
    """Return the settings of training for a task, by their names in `TrainConfig`.

    Args:
        config: of a robot with a task.

    Raises:
        InputError: there is no task, or its atoms cannot be derived.
    """
    largest = largest_reward(config)
    try:
        return config.training.settings(largest, _lowest_reward(config, largest))
    except InputError as error:
        where = f"{config.source}: " if config.source.name else ""
        raise InputError(f"{where}{error}") from None


def _lowest_reward(config: RobotTaskConfig, largest: float) -> float:
    """Return the lowest combined reward: the stated one, 0, or with costs as far as the largest."""
    task = require_task(config)
    if task.minimum_reward is not None:
        return min(task.minimum_reward, 0.0)
    return 0.0 - largest if any(entry.weight < 0 for entry in task.rewards.values()) else 0.0
