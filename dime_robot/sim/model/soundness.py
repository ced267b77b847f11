"""Implausible numbers in a compiled model: NaN, infinity, negative damping, other units."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray


class Bound(NamedTuple):
    """The plausible range of the entries of an array."""

    field: str  # of mujoco.MjModel
    what: str  # for the message
    unit: str
    largest: float  # generous: a larger value is in another unit
    smallest: float = 0.0


BOUNDS = (
    Bound("body_mass", "mass", "kg", 1e5),
    Bound("body_inertia", "inertia", "kg m^2", 1e6),
    Bound("dof_armature", "armature", "kg m^2 or kg", 1e4),
    Bound("dof_damping", "damping", "N m s/rad or N s/m", 1e6),
    Bound("dof_frictionloss", "friction loss", "N m or N", 1e5),
    Bound("jnt_stiffness", "stiffness", "N m/rad or N/m", 1e7),
    Bound("geom_friction", "friction", "1", 1e3),
    Bound("tendon_stiffness", "stiffness", "N/m", 1e7),
    Bound("tendon_damping", "damping", "N s/m", 1e6),
    Bound("tendon_frictionloss", "friction loss", "N", 1e5),
    Bound("tendon_armature", "armature", "kg", 1e4),
    Bound("actuator_damping", "damping", "N m s/rad or N s/m", 1e6),
    Bound("actuator_armature", "armature", "kg m^2 or kg", 1e4),
    Bound("body_pos", "position", "m", 1e4, -1e4),
    Bound("body_ipos", "centre of mass", "m", 1e4, -1e4),
    Bound("geom_size", "size", "m", 1e6),
    Bound("geom_pos", "position", "m", 1e4, -1e4),
    Bound("jnt_pos", "position", "m", 1e4, -1e4),
    Bound("qpos0", "position", "rad or m", 1e4, -1e4),
    Bound("key_qpos", "position", "rad or m", 1e4, -1e4),
)
MAX_ITERATIONS = 10_000  # of a solver in one step, which must end in time
OPTIONS = {  # smallest and largest value; with less the solver does not enforce stops and contacts
    "iterations": (1, MAX_ITERATIONS),
    "ls_iterations": (1, MAX_ITERATIONS),
    "noslip_iterations": (0, MAX_ITERATIONS),
    "ccd_iterations": (0, MAX_ITERATIONS),
    "impratio": (1e-6, math.inf),
}
MAX_DOFS = 2_000  # degrees of freedom of the whole model
MAX_GRAVITY = 100.0  # [m/s^2]
DERIVED = (  # suffixes of arrays that MuJoCo computes from others
    "acc0",
    "invweight0",
    "poscom0",
    "pos0",
    "mat0",
    "M0",
    "length0",
    "lengthrange",
    "subtreemass",
    "aabb",
    "rbound",
    "sameframe",
    "extent",
)
ELEMENTS = {  # prefix of a field -> method of MjModel that returns an element
    "body": "body",
    "jnt": "joint",
    "geom": "geom",
    "site": "site",
    "cam": "camera",
    "light": "light",
    "actuator": "actuator",
    "tendon": "tendon",
    "eq": "equality",
    "key": "key",
    "sensor": "sensor",
    "numeric": "numeric",
}


def unsound(model: mujoco.MjModel, warned: Sequence[str] = ()) -> list[str]:
    """List implausible numbers, one phrase each.

    Args:
        model: as compiled.
        warned: MuJoCo's warnings of the compilation.
    """
    found = [*_not_finite(model), *_out_of_bounds(model)]
    if not found and any("NaN" in text for text in warned):
        # MuJoCo replaces a NaN as a geom's mass, so that the model does not show it
        found = ["expected numbers everywhere, got a NaN in the file; write the number"]
    return found


def _arrays(holder: Any) -> Iterator[tuple[str, FloatArray]]:
    for name in dir(holder):
        value = None if name.startswith("_") else getattr(holder, name)
        if isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
            yield name, np.atleast_1d(value)


def _not_finite(model: mujoco.MjModel) -> list[str]:
    found = [
        (name, int(np.argwhere(~np.isfinite(values))[0][0]), values)
        for name, values in _arrays(model)
        if not np.isfinite(values).all()
    ]
    given = [entry for entry in found if not entry[0].endswith(DERIVED)]
    problems = [
        f"{_element(model, name, row)}: expected finite numbers as {name}, got"
        f" {_numbers(values[row])}"
        for name, row, values in given or found
    ]
    for name, values in _arrays(model.opt):
        if not np.isfinite(values).all():
            problems.append(f"option: expected finite numbers as {name}, got {_numbers(values)}")
    return problems


def _out_of_bounds(model: mujoco.MjModel) -> list[str]:
    problems = []
    for bound in BOUNDS:
        values = getattr(model, bound.field)
        wrong = np.isfinite(values) & ((values < bound.smallest) | (values > bound.largest))
        if bound.field in ("body_mass", "body_inertia"):
            wrong[model.body_weldid == 0] = False  # of the world: any
        for row in dict.fromkeys(np.argwhere(wrong)[:, 0].tolist()):
            got = np.atleast_1d(values[row])[np.atleast_1d(wrong[row])][0]
            problems.append(
                f"{_element(model, bound.field, row)}: expected a {bound.what} in"
                f" [{bound.smallest:g}, {bound.largest:g}] {bound.unit}, got {got:g}"
            )
    if np.linalg.norm(model.opt.gravity) > MAX_GRAVITY:
        problems.append(
            f"option: expected gravity up to {MAX_GRAVITY:g} m/s^2, got"
            f" {_numbers(model.opt.gravity)}: is this really in m/s^2, not in mm/s^2?"
        )
    problems += [
        f"option: expected {field} in [{smallest:g}, {largest:g}], got {value:g}"
        for field, (smallest, largest) in OPTIONS.items()
        if (value := getattr(model.opt, field)) < smallest or value > largest
    ]
    if model.nv > MAX_DOFS:
        problems.append(
            f"expected a model of up to {MAX_DOFS:,} degrees of freedom, got {model.nv:,}"
        )
    if np.isfinite(model.opt.timestep) and model.opt.timestep <= 0:
        problems.append(f"option: expected a timestep above 0 s, got {model.opt.timestep:g}")
    return problems


def _element(model: mujoco.MjModel, field: str, row: int) -> str:
    """Return the name of the element to which a row of an array belongs."""
    prefix = field.split("_")[0]
    if prefix == "dof":
        prefix, row = "jnt", int(model.dof_jntid[row])
    if prefix in ("qpos0", "qpos"):
        prefix, row = "jnt", int(np.searchsorted(model.jnt_qposadr, row, side="right")) - 1
    kind = ELEMENTS.get(prefix)
    if kind is None:
        return f"entry {row}"
    try:
        name = getattr(model, kind)(row).name
    except (IndexError, ValueError, KeyError):  # the array has no row per element
        name = ""
    return f"{kind} {name or row}"


def _numbers(values: FloatArray) -> str:
    return " ".join(f"{value:g}" for value in np.ravel(values)[:6])
