"""Randomizer: draws a configuration's random terms and applies them to a Plant.

Values start from the nominal ones at every reset, so nothing drifts. Several terms on the same
quantity apply in the order listed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import mujoco
import numpy as np

from dime_robot.runtime.contract.policy_spec import Float32Array, FloatArray, PolicySpec
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.randomization import KINDS, RandomKind, RandomTerm
from dime_robot.sim.plant.plant import Plant
from dime_robot.sim.randomization.random_draw import Noise, RandomDraw

DRIVE_KINDS = ("motor_strength", "stiffness", "damping")
# MuJoCo derives constants from these, which mj_setConst has to recompute
SOURCES_OF_CONSTANTS = ("body_mass", "center_of_mass", "armature")
WORST_END: dict[RandomKind, int] = {  # index of the end of a range that is less stable
    "motor_strength": 1,
    "stiffness": 1,
    "damping": 1,
    "armature": 0,
    "joint_damping": 0,
}
ROTATIONS = ("gravity_direction", "imu_mounting")
UNMEASURED = (
    "last_action",
    "command_velocity",
    "command",
)  # observation terms that no sensor gives
TIME_TOLERANCE = 1e-9  # [s]


def extremes(term: RandomTerm) -> tuple[float, float]:
    """Return the ends of a term's range, or of 2 standard deviations [`term.unit`]."""
    return term.interval_of(2.0)


def pinned(term: RandomTerm, value: float) -> RandomTerm:
    """Return the same term with a fixed value [`term.unit`].

    Args:
        term: a term.
        value: of every draw, in its [unit].
    """
    # uniform, since the second number of a normal range is a standard deviation
    changes = {"distribution": "uniform", "range": (value, value)}
    return RandomTerm.model_validate({**term.model_dump(), **changes})


def _names(element: Callable[[int], Any], count: int, what: str) -> list[str]:
    """Return the names of a model's elements; unnamed ones get their number."""
    return [element(i).name or f"{what} {i}" for i in range(count)]


class Randomizer:
    """Draws the terms of a configuration and applies them. Without terms it does nothing.

    Call `startup` once; at every reset `reset`, then the plant's; at every control step `step`
    before the plant's, `observe` after it.

    Args:
        terms: in the order they apply.
        spec: the contract of the plant's policy.
        plant: nominal; its model and drive are changed in place.

    Raises:
        InputError: a target or a part of the plant that a term needs is missing, or terms could
            make a quantity negative or a drive unstable.

    Attributes:
        share: how far every value goes from the nominal one towards its draw, in [0, 1]; a change
            applies from the next reset on.
    """

    def __init__(self, terms: Sequence[RandomTerm], spec: PolicySpec, plant: Plant) -> None:
        self._spec, self._plant, self._model = spec, plant, plant.model
        self.share = 1.0
        self._random_draws: list[RandomDraw] = []
        self._noises: list[Noise] = []
        for term in terms:
            if term.kind == "observation_noise":
                self._add_noise(term)
            else:
                self._random_draws.append(self._random_draw(term))
        self._intervals = [entry for entry in self._random_draws if entry.term.mode == "interval"]
        self._written: dict[RandomKind, list[RandomDraw]] = {}
        for entry in self._random_draws:
            if entry.term.kind != "push":
                self._written.setdefault(entry.term.kind, []).append(entry)
        self._nominal = {kind: self._quantity(kind).copy() for kind in self._written}
        self._inertia = self._model.body_inertia.copy()
        for kind in self._written:
            self._check_stays_physical(kind)
        if "center_of_mass" in self._written:
            self._check_can_move_mass()
        self._check_stays_stable()

    # ---- construction ----

    def _add_noise(self, term: RandomTerm) -> None:
        known = {block.name: block for block in self._spec.observation}
        measured = [name for name, block in known.items() if block.kind not in UNMEASURED]
        ends = np.cumsum([block.size for block in known.values()]).tolist()
        for name in self._targets(term, list(known), measured):
            block, end = known[name], ends[list(known).index(name)]
            entry = RandomDraw(
                term,
                names=[f"{name} {i}" for i in range(block.width)],
                rows=np.arange(end - block.size, end),
                shape=(block.width,),
            )
            self._noises.append(Noise(entry, block.width, block.size, block.history_fill == "zero"))

    def _random_draw(self, term: RandomTerm) -> RandomDraw:
        """Resolve a term's targets."""
        kind, plant, of_drive = term.kind, self._plant, term.kind in DRIVE_KINDS
        actions = f"actions of kind {self._spec.action.kind}"
        for needed, present, what, got in (
            (of_drive, plant.drive is not None, "a drive of positions or velocities", actions),
            (kind == "stiffness", self._spec.action.kind != "velocity", "a stiffness", actions),
            (kind == "push", plant.has_free_base, "a free joint", "none"),
            (kind == "imu_mounting", plant.has_imu, "an imu (sim.imu)", "none"),
        ):
            if needed and not present:
                raise InputError(
                    f"{kind}: expected a robot with {what}, got {got}; leave this term out"
                )
        match KINDS[kind].target:
            case "geom":
                names = known = _names(self._model.geom, self._model.ngeom, "geom")
            case "body":
                names = _names(self._model.body, self._model.nbody, "body")
                known = [name for i, name in enumerate(names) if self._model.body_mass[i] > 0]
            case "joint":
                names = [joint.name for joint in self._spec.joints]
                names = known = list(self._spec.action_joints) if of_drive else names
            case _:
                names = known = [""]
        chosen = self._targets(term, known, known)
        rows = np.array([names.index(name) for name in chosen], dtype=np.intp)
        if kind in ("armature", "joint_friction", "joint_damping"):
            rows = self._plant.dofs[rows].astype(np.intp)
        shape: tuple[int, ...] = (1 if term.shared else len(chosen),)
        labels = ["all" if len(chosen) > 1 else chosen[0]] if term.shared else chosen
        if kind == "center_of_mass":
            shape, labels = (*shape, 3), [f"{name} {axis}" for name in labels for axis in "xyz"]
        return RandomDraw(term, labels, rows, shape)

    def _targets(self, term: RandomTerm, known: list[str], default: list[str]) -> Sequence[str]:
        if unknown := [name for name in term.targets if name not in known]:
            raise InputError(
                f"{term.kind}: expected targets out of {known}, got {', '.join(unknown)}"
            )
        chosen = term.targets or default
        if not chosen:
            raise InputError(
                f"{term.kind}: expected a robot with at least one {KINDS[term.kind].target}, got"
                " none; leave this term out"
            )
        return chosen

    def _quantity(self, kind: RandomKind) -> FloatArray:
        """Return the array that a kind changes: a view into the plant."""
        model, drive = self._model, self._plant.drive
        quantities = {
            "friction": model.geom_friction[:, 0],
            "body_mass": model.body_mass,
            "center_of_mass": model.body_ipos,
            "armature": model.dof_armature,
            "joint_friction": model.dof_frictionloss,
            "joint_damping": model.dof_damping,
            "encoder_bias": self._plant.encoder_bias,
            "gravity_direction": model.opt.gravity,
            "imu_mounting": self._plant.imu_mounting,
        }
        if drive is not None:
            quantities["motor_strength"] = drive.strength
            quantities["stiffness"] = drive.stiffness
            quantities["damping"] = drive.damping
        quantity: FloatArray = quantities[kind]
        return quantity

    def _check_stays_physical(self, kind: RandomKind) -> None:
        if not KINDS[kind].never_negative:
            return
        lowest = self._nominal[kind].copy()
        for entry in self._written[kind]:
            # factors and set values are not negative, so the smallest draws give the smallest value
            lowest = entry.apply(lowest, np.full(entry.shape, entry.term.bounds[0]))
            smallest = float(lowest[entry.rows].min())
            if smallest < 0 or (kind == "body_mass" and smallest == 0):
                raise InputError(
                    f"{kind}: expected terms that leave every target"
                    f" {'above 0' if kind == 'body_mass' else '0 or more'}, got {smallest:g}"
                    f" {KINDS[kind].unit} at the lowest; narrow their ranges"
                )

    def _check_stays_stable(self) -> None:
        """Check drives at the largest gains and smallest inertias; body masses stay nominal."""
        kinds = [kind for kind in self._written if kind in WORST_END]
        if self._plant.drive is None or not kinds:
            return
        for kind in kinds:
            value = self._nominal[kind].copy()
            for entry in self._written[kind]:
                end = entry.term.bounds[WORST_END[kind]]
                value = entry.apply(value, np.full(entry.shape, end))
            self._quantity(kind)[:] = value
        try:
            self._plant.require_stable()
        except InputError as error:
            raise InputError(
                f"{', '.join(kinds)}, at the far ends of what is randomised: {error}"
            ) from None
        finally:
            for kind in kinds:
                self._quantity(kind)[:] = self._nominal[kind]

    def _check_can_move_mass(self) -> None:
        for entry in self._written["center_of_mass"]:
            simple = [int(body) for body in entry.rows if self._model.body_simple[body]]
            if simple:
                raise InputError(
                    "center_of_mass: expected bodies that MuJoCo did not simplify, got"
                    f' {self._model.body(simple[0]).name}; give it simple="false" in the model'
                )

    # ---- drawing ----

    def startup(self, rng: np.random.Generator) -> None:
        """Draw the values that stay for the plant's life; the next `reset` applies them."""
        for entry in self._random_draws:
            if entry.term.mode == "startup":
                entry.draw(rng)

    def reset(self, rng: np.random.Generator) -> None:
        """Draw the values of an episode. Call it before the plant's reset: it changes the data.

        Raises:
            ValueError: `startup` was not called.
        """
        for entry in self._random_draws:
            if entry.term.mode == "reset":
                entry.draw(rng)
            elif entry.term.mode == "interval":
                entry.values, entry.due = None, 0.0
                entry.schedule(rng)
            elif entry.values is None:
                raise ValueError("expected a call of startup() before the first reset()")
        for noise in self._noises:
            noise.first = True
        for kind in self._written:
            self._write(kind)
        if any(kind in self._written for kind in SOURCES_OF_CONSTANTS):
            mujoco.mj_setConst(self._model, self._plant.data)

    def _write(self, kind: RandomKind) -> None:
        value = self._nominal[kind].copy()
        for entry in self._written[kind]:
            if entry.values is None:
                continue
            if kind in ROTATIONS and entry.term.operation == "set":
                value = self._nominal[kind].copy()  # a set rotation starts from the nominal value
            # an angle is scaled itself: between two directions lies no vector of their length
            value = entry.apply(value, (self.share if kind in ROTATIONS else 1.0) * entry.values)
        if self.share < 1.0 and kind not in ROTATIONS:
            nominal = self._nominal[kind]
            value = nominal + self.share * (value - nominal)
        self._quantity(kind)[:] = value
        if kind == "body_mass":
            rows = np.unique(np.concatenate([entry.rows for entry in self._written[kind]]))
            ratio = value[rows] / self._nominal[kind][rows]
            self._model.body_inertia[rows] = self._inertia[rows] * ratio[:, None]

    def step(self, rng: np.random.Generator, time: float) -> None:
        """Draw and apply the interval terms that are due; `time` since reset [s].

        Args:
            rng: generator of the draws.
            time: since the reset [s].
        """
        for entry in self._intervals:
            if entry.due > time + TIME_TOLERANCE:
                continue
            values = entry.draw(rng)
            entry.schedule(rng)
            if entry.term.kind == "push":
                heading = np.array([math.cos(entry.heading), math.sin(entry.heading)])
                self._plant.push(self.share * values[0] * heading)
            else:
                self._write(entry.term.kind)

    def observe(self, observation: Float32Array, rng: np.random.Generator) -> Float32Array:
        """Add noise to an observation, shape (n_obs,), raw SI, in place, and return it.

        Args:
            observation: raw, changed in place, shape (n_obs,).
            rng: generator of the draws.
        """
        for noise in self._noises:
            noise.add(observation, rng, self.share)
        return observation

    def drawn(self) -> list[dict[str, object]]:
        """Return the last draws, one per value: kind, target, operation, mode, unit, value.

        They are what was drawn, whatever `share` leaves of it.
        """
        return [
            {
                "kind": entry.term.kind,
                "target": name,
                "operation": entry.term.operation,
                "mode": entry.term.mode,
                "unit": entry.term.unit,
                "value": value,
            }
            for entry in [*self._random_draws, *(noise.random_draw for noise in self._noises)]
            if entry.values is not None
            for name, value in zip(entry.names, entry.values.ravel().tolist(), strict=True)
        ]
