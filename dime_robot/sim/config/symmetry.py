"""SymmetryConfig: the left-right mirror image of a robot, as signed permutations.

The mirror is the xz-plane of the base: y becomes -y. A vector (x, y, z) becomes (x, -y, z), a
pseudo-vector such as an angular velocity (-x, y, -z), and each joint takes the place of its
partner, with a sign where their axes are not mirrored. Whatever a symmetric robot does, its mirror
image does too, so that a learner may use both.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from dime_robot.runtime.contract.names import MAX_NAME, Name
from dime_robot.runtime.contract.policy_spec import (
    MAX_JOINTS,
    FloatArray,
    Joint,
    ObservationTerm,
    PolicySpec,
    StrictModel,
)

VECTOR, PSEUDO_VECTOR = (1, -1, 1), (-1, 1, -1)
VELOCITY = (1, -1, -1)  # forward, left, yaw
SIGNS: dict[str, tuple[int, ...]] = {
    "angular_velocity": PSEUDO_VECTOR,
    "projected_gravity": VECTOR,
    "command_velocity": VELOCITY,
}
EVEN = ("joint_position_cos",)  # joint terms that are the same of -q as of q
AXES = {"linear_x": 1, "linear_y": -1, "angular_z": -1}  # of a twist
TOLERANCE = 1e-6  # between numbers of the contract that have to be the same

Sign = Literal[1, -1]
Partner = Annotated[str, Field(max_length=MAX_NAME + 1, pattern=r"^-?[^-].*$")]


class Mirror(NamedTuple):
    """Signed permutations: mirrored[i] = sign[i] * given[index[i]]. Applied twice it is nothing."""

    observation_index: npt.NDArray[np.intp]  # shape (n_obs,)
    observation_sign: FloatArray  # shape (n_obs,), 1 or -1
    action_index: npt.NDArray[np.intp]  # shape (n_act,)
    action_sign: FloatArray  # shape (n_act,), 1 or -1

    def observation(self, values: FloatArray) -> FloatArray:
        """Mirror observations.

        Args:
            values: raw, shape (..., n_obs).
        """
        mirrored: FloatArray = self.observation_sign * values[..., self.observation_index]
        return mirrored

    def action(self, values: FloatArray) -> FloatArray:
        """Mirror actions.

        Args:
            values: in [-1, 1], shape (..., n_act).
        """
        mirrored: FloatArray = self.action_sign * values[..., self.action_index]
        return mirrored


class SymmetryConfig(StrictModel):
    """The section `symmetry:` of a robot's file."""

    joints: dict[Name, Partner] = Field(min_length=1, max_length=MAX_JOINTS)
    """Joint -> its partner, with a minus sign where a positive motion of one is the mirror image of
    a negative motion of the other: {FL_hip: -FR_hip, FL_knee: FR_knee, waist_yaw: -waist_yaw}.
    Each pair is written once, or both ways round."""
    feet: dict[Name, Name] = Field(default_factory=dict, max_length=MAX_JOINTS)
    """Foot -> its partner, each pair once or both ways round, for contacts of feet."""
    terms: dict[Name, tuple[Sign, ...]] = Field(default_factory=dict, max_length=MAX_JOINTS)
    """Observation term -> signs of the numbers of one reading, for terms of the user's own, whose
    kind does not tell how they are mirrored: [1, -1, 1] for a position in the base's frame."""

    @model_validator(mode="after")
    def _partners_agree(self) -> SymmetryConfig:
        for name, (partner, sign) in self._written():
            back = dict(self._written()).get(partner)
            if back is not None and back != (name, sign):
                other = f"{'-' if back[1] < 0 else ''}{back[0]}"
                ours = f"{'-' if sign < 0 else ''}{name}"
                raise ValueError(
                    f"joints: {partner} is the partner of {name}, so expected {ours} as its own,"
                    f" got {other}"
                )
        for foot, other in self.feet.items():
            if self.feet.get(other, foot) != foot or list(self.feet.values()).count(other) > 1:
                raise ValueError(f"feet: expected pairs of feet, got {self.feet}")
        partners = [partner for _, (partner, _) in self._written()]
        for partner in partners:
            if partners.count(partner) > 1:
                raise ValueError(f"joints: expected {partner} as the partner of one joint, got two")
        return self

    def _written(self) -> Iterator[tuple[str, tuple[str, int]]]:
        for name, partner in self.joints.items():
            yield name, (partner.removeprefix("-"), -1 if partner.startswith("-") else 1)

    def partners(self) -> dict[str, tuple[str, int]]:
        """Return every joint -> its partner and the sign, both ways round."""
        found = dict(self._written())
        for name, (partner, sign) in self._written():
            found.setdefault(partner, (name, sign))
        return found

    def require_fit(self, spec: PolicySpec) -> None:
        """Refuse a contract that is not its own mirror image.

        Args:
            spec: the contract.

        Raises:
            ValueError: it is not, with the first difference.
        """
        partners = self.partners()
        for joint in spec.joints:
            if joint.name not in partners:
                raise ValueError(
                    f"symmetry.joints: expected a partner of each joint of the policy, {joint.name}"
                    " has none; a joint in the middle is its own"
                )
            other, sign = partners[joint.name]
            if other not in {each.name for each in spec.joints}:
                raise ValueError(
                    f"symmetry.joints.{joint.name}: expected a joint of the policy, got {other!r}"
                )
            _require_mirrored(joint, spec.joint(other), sign)
        for name, position in spec.held_joints.items():
            other, sign = partners.get(name, (name, 1))
            held = spec.held_joints.get(other)
            if held is None or abs(held - sign * position) > TOLERANCE:
                raise ValueError(
                    f"held_joints.{name}: expected its partner {other} to be held at"
                    f" {sign * position:g}, got {held}; see symmetry.joints"
                )
        mirror(spec, self)


def _require_mirrored(joint: Joint, other: Joint, sign: int) -> None:
    """Refuse two joints that differ in more than their names and directions.

    Raises:
        ValueError: with the field.
    """

    def turned(limits: tuple[float, float] | None) -> list[float] | None:
        if limits is None:
            return None
        return sorted(sign * limit for limit in limits)

    for field, expected, got in (
        ("type", joint.type, other.type),
        ("default_position", sign * joint.default_position, other.default_position),
        ("position_limits", turned(joint.position_limits), other.position_limits),
        ("effort_limit", joint.effort_limit, other.effort_limit),
        ("stiffness", joint.stiffness, other.stiffness),
        ("damping", joint.damping, other.damping),
    ):
        same = expected == got
        if not same and not isinstance(expected, str) and None not in (expected, got):
            same = bool(np.allclose(expected, got, rtol=0, atol=TOLERANCE))  # type: ignore[arg-type]
        if not same:
            raise ValueError(
                f"joint {other.name}: expected {field} {expected}, mirrored from its partner"
                f" {joint.name} (symmetry.joints), got {got}"
            )


class _Entry(NamedTuple):
    """What a number of an observation is, so that its mirror image can be found."""

    key: tuple[str, Hashable]  # its term's name, and what it shows
    mirrored: Hashable  # what the number shows that takes its place
    sign: int


def mirror(spec: PolicySpec, symmetry: SymmetryConfig) -> Mirror:
    """Return the signed permutations of a contract's observations and actions.

    Args:
        spec: the contract.
        symmetry: of its robot.

    Raises:
        ValueError: an observation or an action has no mirror image in the contract.
    """
    partners = symmetry.partners()
    action_index, action_sign = _mirror_action(spec, partners)
    index, sign = [], []
    entries = [
        (term, entry)
        for term in spec.observation
        for entry in _entries(term, symmetry, partners, action_index, action_sign)
    ]
    places: dict[Hashable, int] = {}
    for i, (_, entry) in enumerate(entries):
        places.setdefault(entry.key, i)
    for term, entry in entries:
        # the same term first: two terms may show the same joints in different scales
        place = places.get((term.name, entry.mirrored))
        if place is None:
            others = [
                i
                for i, (other, each) in enumerate(entries)
                if each.key[1] == entry.mirrored
                and (other.scale, other.clip) == (term.scale, term.clip)
            ]
            if not others:
                raise ValueError(
                    f"observation term {term.name}: expected the partners of its joints in it, or"
                    " in a term of the same kind, history, scale and clip (symmetry.joints)"
                )
            place = others[0]
        index.append(place)
        sign.append(entry.sign)
    return Mirror(
        np.array(index, dtype=np.intp), np.array(sign, dtype=float), action_index, action_sign
    )


def _mirror_action(
    spec: PolicySpec, partners: dict[str, tuple[str, int]]
) -> tuple[npt.NDArray[np.intp], FloatArray]:
    names = spec.action_joints
    if spec.action.kind == "flat":
        raise ValueError("symmetry: expected an action that names joints, got a flat one")
    if spec.action.kind == "twist":
        return np.arange(len(names)), np.array([float(AXES[axis]) for axis in names])
    index, sign = [], []
    for name in names:
        other, factor = partners[name]
        scale = spec.action.scale.get(other)
        if scale is None or abs(scale - spec.action.scale[name]) > TOLERANCE:
            raise ValueError(
                f"action.scale.{other}: expected {spec.action.scale[name]:g}, that of its partner"
                f" {name} (symmetry.joints), got {scale}"
            )
        index.append(names.index(other))
        sign.append(float(factor))
    return np.array(index, dtype=np.intp), np.array(sign)


def _entries(
    term: ObservationTerm,
    symmetry: SymmetryConfig,
    partners: dict[str, tuple[str, int]],
    action_index: npt.NDArray[np.intp],
    action_sign: FloatArray,
) -> Iterator[_Entry]:
    """Yield the numbers of a term in their order."""
    signs: tuple[int, ...] | None = SIGNS.get(term.kind)
    feet = {**{other: foot for foot, other in symmetry.feet.items()}, **symmetry.feet}
    if term.feet and (missing := [foot for foot in term.feet if foot not in feet]):
        raise ValueError(
            f"symmetry.feet: expected a partner of each foot in term {term.name}, {missing} have"
            " none; a foot in the middle is its own"
        )
    named = term.joints or term.feet
    if not named and term.kind != "last_action" and signs is None:
        signs = symmetry.terms.get(term.name)
        if signs is None or len(signs) != term.width:
            got = "none" if signs is None else list(signs)
            raise ValueError(
                f"symmetry.terms.{term.name}: expected {term.width} signs, 1 or -1 for each number"
                f" of a reading, since a term of kind {term.kind} does not tell how it is mirrored;"
                f" got {got}"
            )
    for reading in range(term.history):
        what: tuple[Hashable, ...] = (term.kind, term.history, term.history_fill, reading)
        for i in range(term.width):
            mine: Hashable = i
            its: Hashable = i
            sign = 1
            if term.joints:
                mine = term.joints[i]
                its, sign = partners[term.joints[i]]
                sign = 1 if term.kind in EVEN else sign
            elif term.feet:
                mine, its = term.feet[i], feet[term.feet[i]]
            elif term.kind == "last_action":
                its, sign = int(action_index[i]), int(action_sign[i])
            elif signs is not None:
                what = (term.name, *what[1:])  # a vector only takes its own place
                sign = signs[i]
            yield _Entry((term.name, (what, mine)), (what, its), sign)
