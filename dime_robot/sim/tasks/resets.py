"""Terms of `task.reset`: how an episode starts. They run in order and change `view.start`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from dime_robot.runtime.contract.units import upper_bound
from dime_robot.sim.config.quantities import Metres, Radians
from dime_robot.sim.tasks.view import TaskView


def _for_all(given: object) -> object:
    return {"*": given} if isinstance(given, float | int) and type(given) is not bool else given


Noise = Annotated[float, upper_bound(1.6, "rad or m", "degrees or mm"), Field(ge=0)]
NoiseOf = Annotated[dict[str, Noise], BeforeValidator(_for_all)]


def joint_positions(
    view: TaskView,
    positions: dict[str, Radians] = {},  # noqa: B006 - parameters are never changed
    noise: NoiseOf = {},  # noqa: B006
) -> None:
    """Start in the default pose, or at other positions, plus uniform noise.

    Args:
        view: of the task.
        positions: joint or pattern -> position instead of the default one [rad or m].
        noise: largest change, one number for all joints, or joint or pattern -> number [rad or m].
    """
    spec, rng = view.spec, view.rng
    names = [joint.name for joint in spec.joints]
    pose = dict(zip(names, view.default_position.tolist(), strict=True))
    for pattern, position in positions.items():
        for index in view.indices([pattern], "positions"):
            pose[names[index]] = position
    largest: dict[str, float] = {}
    for pattern, amount in noise.items():
        largest |= {names[index]: amount for index in view.indices([pattern], "noise")}
    for name in names:
        if name in largest:
            pose[name] += rng.uniform(-largest[name], largest[name])
    view.start.positions |= pose


def base_height(view: TaskView, height: Annotated[Metres, Field(gt=0)]) -> None:
    """Start with the base at a height.

    Args:
        view: of the task.
        height: of the free base above the world's origin [m].
    """
    view.start.height = height
