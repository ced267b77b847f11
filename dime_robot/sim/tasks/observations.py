"""Terms of `task.observations`: values of `sensor` observation terms, as the sensor measures them.

On the robot the user's own node publishes such a value (`robot.sensors`).
"""

from __future__ import annotations

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.sim.tasks.view import TaskView


def site_position(view: TaskView, site: str) -> FloatArray:
    """Return the position of a site in the frame of the robot's base, shape (3,) [m].

    Args:
        view: of the task.
        site: in the model.
    """
    return view.site(site)
