"""Terms of `task.privileged`: what the critics see of the simulation, and the policy never does.

No robot measures these values: the true state, and what randomisation has drawn. With
`--asymmetric-critic` they are inputs of the critics, which only training needs; see
`learning/dime.py`. Each term declares its mirror image (`mirrored.py`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import mujoco
import numpy as np
from pydantic import Field

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.quantities import Names
from dime_robot.sim.config.symmetry import VECTOR
from dime_robot.sim.tasks.mirrored import mirrored
from dime_robot.sim.tasks.view import TaskView

SomeNames = Annotated[Names, Field(min_length=1)]
Force = Annotated[float, Field(gt=0)]

# ---- the true state


@mirrored(signs=VECTOR)
def base_linear_velocity(view: TaskView) -> FloatArray:
    """Return the velocity of the base, in the level frame with its heading, shape (3,) [m/s].

    Args:
        view: of the task.
    """
    return view.base.velocity


@mirrored(signs=(1,))
def base_height(view: TaskView) -> FloatArray:
    """Return the height of the base above the world's origin, shape (1,) [m].

    Args:
        view: of the task.
    """
    return np.array([view.base.height])


@mirrored(by="feet")
def foot_forces(view: TaskView, feet: SomeNames) -> FloatArray:
    """Return the force that presses on each foot, shape (n_feet,) [N].

    Args:
        view: of the task.
        feet: names in `sim.feet`, or of geoms of the model.
    """
    return view.plant.contact_forces(view.foot_geoms(feet))


@mirrored(by="feet")
def foot_contacts(view: TaskView, feet: SomeNames, force: Force = 1.0) -> FloatArray:
    """Return 1 for each foot on the ground and 0 for each in the air, shape (n_feet,) [1].

    Args:
        view: of the task.
        feet: names in `sim.feet`, or of geoms of the model.
        force: above which a foot is in contact [N].
    """
    return (view.plant.contact_forces(view.foot_geoms(feet)) > force).astype(float)


@mirrored(by="joints", turned=True)
def true_joint_position(view: TaskView, joints: Names = ()) -> FloatArray:
    """Return positions without bias, noise and delay, shape (n,) [rad or m].

    Args:
        view: of the task.
        joints: names or patterns; none: all of the policy.
    """
    return view.joint_position[view.indices(joints)]


@mirrored(by="joints", turned=True)
def true_joint_velocity(view: TaskView, joints: Names = ()) -> FloatArray:
    """Return velocities without noise and delay, shape (n,) [rad/s or m/s].

    Args:
        view: of the task.
        joints: names or patterns; none: all of the policy.
    """
    return view.joint_velocity[view.indices(joints)]


# ---- what randomisation has drawn


@mirrored(by="feet")
def foot_friction(view: TaskView, feet: SomeNames) -> FloatArray:
    """Return the coefficient of sliding friction of each foot, shape (n_feet,) [1].

    Args:
        view: of the task.
        feet: names in `sim.feet`, or of geoms of the model.
    """
    friction: FloatArray = view.plant.model.geom_friction[view.foot_geoms(feet), 0]
    return friction


@mirrored(signs=(1,), base="body")
def body_mass(view: TaskView, body: str) -> FloatArray:
    """Return the mass of a body, shape (1,) [kg].

    Args:
        view: of the task.
        body: its name in the model.
    """
    return view.plant.model.body_mass[[_body(view, body)]]  # type: ignore[no-any-return]


@mirrored(signs=VECTOR, base="body")
def center_of_mass(view: TaskView, body: str) -> FloatArray:
    """Return the centre of mass of a body in the body's frame, shape (3,) [m].

    Args:
        view: of the task.
        body: its name in the model.
    """
    return view.plant.model.body_ipos[_body(view, body)]  # type: ignore[no-any-return]


@mirrored(by="joints")
def joint_parameters(
    view: TaskView, which: Literal["damping", "friction", "armature"], joints: Names = ()
) -> FloatArray:
    """Return the damping [N m s/rad], friction [N m] or armature [kg m^2] of joints, shape (n,).

    Args:
        view: of the task.
        which: of these.
        joints: names or patterns; none: all of the policy.
    """
    model = view.plant.model
    of_dofs = {
        "damping": model.dof_damping,
        "friction": model.dof_frictionloss,
        "armature": model.dof_armature,
    }
    parameters: FloatArray = of_dofs[which][view.plant.dofs[view.indices(joints)]]
    return parameters


@mirrored(by="joints")
def drive_parameters(
    view: TaskView, which: Literal["strength", "stiffness", "damping"], joints: Names = ()
) -> FloatArray:
    """Return the strength [1], stiffness [N m/rad] or damping [N m s/rad] of drives, shape (n,).

    Args:
        view: of the task.
        which: of these; the strength is the ratio of actual to computed effort.
        joints: names or patterns of joints with a drive; none: all of the policy.
    """
    drive = view.plant.drive
    if drive is None:
        raise InputError("expected a robot with a drive of positions or velocities, got another")
    names = [view.spec.joints[i].name for i in view.indices(joints)]
    parameters: FloatArray = getattr(drive, which)[[view.action_index(name) for name in names]]
    return parameters


@mirrored(by="joints", turned=True)
def encoder_bias(view: TaskView, joints: Names = ()) -> FloatArray:
    """Return readings minus true positions of joints, shape (n,) [rad or m].

    Args:
        view: of the task.
        joints: names or patterns; none: all of the policy.
    """
    return view.plant.encoder_bias[view.indices(joints)]


@mirrored(signs=(1, 1))
def latency(view: TaskView) -> FloatArray:
    """Return the last drawn delays of observation and action, shape (2,) [s].

    Args:
        view: of the task.
    """
    return np.array(view.plant.delays)


def _body(view: TaskView, name: str) -> int:
    model = view.plant.model
    number = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
    if number < 0:
        known = [model.body(i).name for i in range(1, model.nbody)]
        raise InputError(f"body: expected a body of the model, out of {known}, got {name!r}")
    return int(number)
