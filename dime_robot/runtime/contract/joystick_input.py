"""JoystickInput: what the axes and buttons of a joystick mean, the `robot.joystick` section.

How its messages are responded to is decided by `runtime/control/joystick.py`.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dime_robot.runtime.contract.names import Name, Topic
from dime_robot.runtime.contract.policy_spec import StrictModel
from dime_robot.runtime.contract.units import upper_bound

MAX_INDEX = 63  # of an axis or a button; gamepads have up to 8 axes and 21 buttons
Index = Annotated[int, Field(ge=0, le=MAX_INDEX)]
Axis = Literal["linear_x", "linear_y", "angular_z"]
PHASE_BUTTONS = ("stand_up", "run_policy", "sit_down")


class JoystickAxis(StrictModel):
    """One axis of a joystick, which gives one axis of the velocity."""

    index: Index
    """In the message's `axes`."""
    invert: bool = False
    """Whether forward or left is negative in the message; joy_node publishes them as positive."""
    scale: float = Field(1.0, gt=0, le=1)
    """Share of the limit of `command_velocity` at full deflection."""
    dead_zone: float = Field(0.1, ge=0.01, le=0.5)
    """Smaller deflections count as centred."""

    def deflection(self, value: float) -> float:
        """Return the share of the limit that a value of the message means, in [-1, 1].

        Args:
            value: in [-1, 1] [1].
        """
        share = min(max(0.0, abs(value) - self.dead_zone) / (1 - self.dead_zone), 1.0)
        return math.copysign(share * self.scale, -value if self.invert else value)

    def value(self, deflection: float) -> float:
        """Return the value of a message that means a share of the limit; see `deflection`.

        Args:
            deflection: in [-scale, scale] [1]; a larger one gives full deflection.
        """
        if not deflection:
            return 0.0
        share = min(abs(deflection) / self.scale, 1.0)
        value = self.dead_zone + share * (1 - self.dead_zone)
        return math.copysign(value, -deflection if self.invert else deflection)


class JoystickButtons(StrictModel):
    """The buttons that request something; none: no button does."""

    stand_up: Index | None = None
    run_policy: Index | None = None
    sit_down: Index | None = None
    next_policy: Index | None = None
    """In the order in which the policies are given."""
    previous_policy: Index | None = None
    select: dict[Name, Index] = Field(default_factory=dict, max_length=MAX_INDEX + 1)
    """Name of a policy -> its button."""

    def by_place(self) -> dict[str, int]:
        """Return all buttons by their places in this section."""
        given = {
            name: getattr(self, name) for name in (*PHASE_BUTTONS, "next_policy", "previous_policy")
        }
        found = {name: button for name, button in given.items() if button is not None}
        return found | {f"select.{name}": button for name, button in self.select.items()}


class JoystickInput(StrictModel):
    """The operator's joystick, as sensor_msgs/Joy messages."""

    topic: Topic = "joy"
    timeout: Annotated[float, upper_bound(5, "s", "ms")] = Field(ge=0.1)
    """After this long without a usable message it is lost [s]: 10 messages of joy_node, which
    repeats itself 20 times a second (`autorepeat_rate`), are a good choice."""
    sit_down_after: Annotated[float, upper_bound(600, "s", "ms")] | None = Field(None, ge=0.1)
    """After this long without a usable message the robot sits down [s]; mandatory for a robot with
    phases, and for no other."""
    deadman: Index
    """Button that has to be held for a velocity and for most requests."""
    estop: Index
    """Button that stops, latched."""
    axes: dict[Axis, JoystickAxis] = Field(default_factory=dict)
    """Axes of the velocity; with any of them the topic of `command_velocity` is not subscribed."""
    buttons: JoystickButtons = JoystickButtons()

    @model_validator(mode="after")
    def _each_index_has_one_meaning(self) -> JoystickInput:
        buttons = {"deadman": self.deadman, "estop": self.estop}
        buttons |= {f"buttons.{name}": index for name, index in self.buttons.by_place().items()}
        axes = {f"axes.{name}": axis.index for name, axis in self.axes.items()}
        for kind, given in (("a button", buttons), ("an axis", axes)):
            owner: dict[int, str] = {}
            for name, index in given.items():
                if index in owner:
                    raise ValueError(
                        f"{name}: expected {kind} of its own, got {index}, which is"
                        f" {owner[index]} already"
                    )
                owner[index] = name
        return self

    def robot_problem(self, has_velocity: bool, has_phases: bool) -> str:
        """Return why a robot cannot have this joystick, a phrase that begins with the place.

        Args:
            has_velocity: whether the robot has a section `command_velocity`.
            has_phases: whether it has a section `phases`.

        Returns:
            Empty: it can.
        """
        if self.axes and not has_velocity:
            return (
                f"axes: expected none of a robot without command_velocity, got {list(self.axes)}:"
                " its limits say what full deflection means"
            )
        given = [name for name in PHASE_BUTTONS if name in self.buttons.by_place()]
        if given and not has_phases:
            return f"buttons.{given[0]}: expected none of a robot without phases, got one"
        if has_phases and self.sit_down_after is None:
            return (
                "sit_down_after: expected the silence after which a robot with phases sits down"
                " [s], got none"
            )
        if not has_phases and self.sit_down_after is not None:
            return (
                "sit_down_after: expected none of a robot without phases, which cannot sit down,"
                f" got {self.sit_down_after:g}"
            )
        return ""
