"""Numbers in a compiled model that no robot has: NaN, infinities, negative damping, other units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray


class Bound(NamedTuple):
    """What an entry of a model's array may be."""

    field: str  # of mujoco.MjModel
    what: str  # in words
    unit: str
    largest: float  # generous: above it the unit is wrong
    lowest: float = 0.0


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
MAX_ITERATIONS = 10_000  # of a solver in one step
MAX_FREEDOM = 2_000  # degrees of freedom of everything in the model
GRAVITY = 100.0  # [m/s^2] of any planet a robot stands on
DERIVED = (  # MuJoCo's own results, which show a fault that stands somewhere else
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
ELEMENTS = {  # how a field begins -> how MuJoCo's Python names one of it
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
    """What no robot has, one phrase each; none: the numbers can be simulated.

    Args:
        model: as it was compiled.
        warned: what MuJoCo said meanwhile.
    """
    found = [*_not_finite(model), *_out_of_bounds(model)]
    if not found and any("NaN" in text for text in warned):
        # a NaN as a geom's mass means "from its density" to MuJoCo, and nothing shows it later
        found = ["expected numbers everywhere, got a NaN in the file; write the number"]
    return found


def _arrays(holder: Any) -> Iterator[tuple[str, FloatArray]]:
    for name in dir(holder):
        value = None if name.startswith("_") else getattr(holder, name)
        if isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
            yield name, np.atleast_1d(value)


def _not_finite(model: mujoco.MjModel) -> list[str]:
    places = [
        (name, int(np.argwhere(~np.isfinite(values))[0][0]), values)
        for name, values in _arrays(model)
        if not np.isfinite(values).all()
    ]
    given = [place for place in places if not place[0].endswith(DERIVED)]
    said = [
        f"{_element(model, name, row)}: expected finite numbers as {name}, got"
        f" {_numbers(values[row])}"
        for name, row, values in given or places
    ]
    for name, values in _arrays(model.opt):
        if not np.isfinite(values).all():
            said.append(f"option: expected finite numbers as {name}, got {_numbers(values)}")
    return said


def _out_of_bounds(model: mujoco.MjModel) -> list[str]:
    said = []
    for bound in BOUNDS:
        values = getattr(model, bound.field)
        wrong = np.isfinite(values) & ((values < bound.lowest) | (values > bound.largest))
        if bound.field in ("body_mass", "body_inertia"):  # a hall's floor may weigh anything
            wrong[model.body_weldid == 0] = False
        for row in dict.fromkeys(np.argwhere(wrong)[:, 0].tolist()):
            got = np.atleast_1d(values[row])[np.atleast_1d(wrong[row])][0]
            said.append(
                f"{_element(model, bound.field, row)}: expected a {bound.what} in"
                f" [{bound.lowest:g}, {bound.largest:g}] {bound.unit}, got {got:g}"
            )
    if np.linalg.norm(model.opt.gravity) > GRAVITY:
        said.append(
            f"option: expected gravity up to {GRAVITY:g} m/s^2, got"
            f" {_numbers(model.opt.gravity)}: is this really in m/s^2, not in mm/s^2?"
        )
    for field, least in (("iterations", 1), ("ls_iterations", 1), ("impratio", 1e-6)):
        if getattr(model.opt, field) < least:
            said.append(
                f"option: expected {field} of {least:g} or more, got {getattr(model.opt, field):g}:"
                " stops and contacts would not hold"
            )
    said += [
        f"option: expected {field} up to {MAX_ITERATIONS:,}, got {getattr(model.opt, field):,}: one"
        " step could take for ever"
        for field in ("iterations", "ls_iterations", "noslip_iterations", "ccd_iterations")
        if getattr(model.opt, field) > MAX_ITERATIONS
    ]
    if model.nv > MAX_FREEDOM:
        said.append(
            f"expected a model of up to {MAX_FREEDOM:,} degrees of freedom, got {model.nv:,}"
        )
    if np.isfinite(model.opt.timestep) and model.opt.timestep <= 0:
        said.append(f"option: expected a timestep above 0 s, got {model.opt.timestep:g}")
    return said


def _element(model: mujoco.MjModel, field: str, row: int) -> str:
    """What the model calls the element that a row of one of its arrays belongs to."""
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
    except (IndexError, ValueError, KeyError):  # a row of an array that is no list of elements
        name = ""
    return f"{kind} {name or row}"


def _numbers(values: FloatArray) -> str:
    return " ".join(f"{value:g}" for value in np.ravel(values)[:6])
