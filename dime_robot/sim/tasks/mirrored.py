"""How a term of `task.privileged` declares its left-right mirror image, and what follows from it.

The numbers of observation terms have kinds, from which `sim/config/symmetry.py` finds their mirror
images. A privileged term is a function, and says itself what its numbers are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.symmetry import SymmetryConfig
from dime_robot.sim.tasks.view import TaskView

_Term = TypeVar("_Term", bound=Callable[..., Any])


class Mirrored(NamedTuple):
    """What the numbers of a term are.

    Attributes:
        signs: of its numbers, if each one keeps its place.
        by: parameter with the names of joints or feet, one for each number; empty: `signs`.
        turned: whether a number changes its sign with the direction of its joint.
        base: parameter with a body that has to be the base; empty: none.
    """

    signs: tuple[int, ...] = ()
    by: Literal["", "joints", "feet"] = ""
    turned: bool = False
    base: str = ""


class Image(NamedTuple):
    """A signed permutation: mirrored[i] = sign[i] * given[places[i]]."""

    places: npt.NDArray[np.intp]  # shape (n,)
    sign: FloatArray  # shape (n,), 1 or -1


def mirrored(
    signs: tuple[int, ...] = (),
    by: Literal["", "joints", "feet"] = "",
    turned: bool = False,
    base: str = "",
) -> Callable[[_Term], _Term]:
    """Declare the mirror image of a term; the arguments are those of `Mirrored`."""

    def mark(term: _Term) -> _Term:
        term.mirrored = Mirrored(signs, by, turned, base)  # type: ignore[attr-defined]
        return term

    return mark


def image_of(
    name: str,
    term: object,
    parameters: Mapping[str, Any],
    size: int,
    view: TaskView,
    symmetry: SymmetryConfig,
) -> Image:
    """Return the mirror image of a term's numbers.

    Args:
        name: of its entry, by which `symmetry.terms` gives the signs of terms of the user's own.
        term: function, or object of a class.
        parameters: of the function, validated.
        size: how many numbers it returns.
        view: that it reads.
        symmetry: of the robot.

    Raises:
        InputError: nothing says how it is mirrored, or a partner is missing.
    """
    declared = getattr(term, "mirrored", None)
    signs = symmetry.terms.get(name)
    if signs is None and isinstance(declared, Mirrored):
        if declared.by:
            names = parameters[declared.by]
            if declared.by == "joints":
                known = view.spec.joints
                names = [known[i].name for i in view.indices(names)]
            return _exchanged(names, declared, symmetry)
        if declared.base:
            _require_base(declared.base, parameters[declared.base], view)
        signs = declared.signs  # type: ignore[assignment]
    if signs is None or len(signs) != size:
        got = "none" if signs is None else list(signs)
        raise InputError(
            f"expected {size} signs in symmetry.terms.{name}, 1 or -1 for each number, since"
            f" nothing else says how this term is mirrored; got {got}"
        )
    return Image(np.arange(size), np.array(signs, dtype=float))


def _exchanged(names: Sequence[str], declared: Mirrored, symmetry: SymmetryConfig) -> Image:
    """Return the image of numbers that belong to joints or feet, which change places."""
    if declared.by == "joints":
        partners = symmetry.partners()
    else:
        partners = {foot: (other, 1) for foot, other in symmetry.feet.items()}
        partners |= {other: (foot, 1) for foot, other in symmetry.feet.items()}
    places, sign, known = [], [], list(names)
    for name in names:
        other, factor = partners.get(name, (None, 1))
        if other is None or other not in known:
            got = "not stated" if other is None else f"{other}, which is left out"
            raise InputError(
                f"{declared.by}: expected the partner of each of them (symmetry.{declared.by}),"
                f" that of {name} is {got}"
            )
        places.append(known.index(other))
        sign.append(float(factor) if declared.turned else 1.0)
    return Image(np.array(places, dtype=np.intp), np.array(sign))


def _require_base(parameter: str, body: str, view: TaskView) -> None:
    base = view.plant.model.body(view.plant.root).name
    if body != base:
        raise InputError(
            f"{parameter}: expected the base, {base}, with a mirror image (`symmetry:`), got"
            f" {body}: no partner of another body is stated"
        )
