"""TaskView: what a task's terms read, and where its resets say how an episode starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mujoco
import numpy as np
import numpy.typing as npt

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.contract.shorthand import matching
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.plant.plant import BaseMotion, Plant

MAX_DRAWS = 100  # of a pose, until one is accepted


class Start:
    """How an episode starts; reset terms change it, one after the other.

    Attributes:
        positions: joint -> position [rad or m]; joints that are left out are in their default pose.
        height: of a free base above the world's origin [m]; None: as the model has it.
    """

    def __init__(self) -> None:
        self.positions: dict[str, float] = {}
        self.height: float | None = None
        self.then: list[Callable[[mujoco.MjModel, mujoco.MjData], object]] = []

    def afterwards(self, change: Callable[[mujoco.MjModel, mujoco.MjData], object]) -> None:
        """Call `change(model, data)` once the robot is in its pose, for anything else in the world.

        Args:
            change: writes into data, such as the pose of a ball or a mocap body.
        """
        self.then.append(change)


class TaskView:
    """The true state of robot, commands and episode, which a robot itself cannot measure.

    Args:
        spec: the policy's contract.
        plant: the simulated robot.
        episode_seconds: the task's time limit [s].

    Raises:
        InputError: the action is `flat`.

    Attributes:
        spec: as given.
        plant: as given; `plant.model` and `plant.data` are MuJoCo's.
        episode_seconds: as given [s].
        rng: of the episode, for draws.
        start: for reset terms.
        commands: name -> current value, shape (size,), in the command's unit.
        step: control steps since the episode began.
        command: what the robot was commanded in this step.
        action: the same in the contract's [-1, 1], shape (n_act,); of relative positions the change
            from the command before.
        previous_action: of the step before; in the first step the same as `action`.
        effort_squared: sum over joints of the squared effort of drives, mean over the step
            [N^2 m^2].
        rewards: name -> weighted reward of this step, for metrics.
    """

    def __init__(self, spec: PolicySpec, plant: Plant, episode_seconds: float) -> None:
        self.spec, self.plant, self.episode_seconds = spec, plant, episode_seconds
        self.rng = np.random.default_rng(0)
        self.start = Start()
        self.commands: dict[str, FloatArray] = {}
        self.rewards: dict[str, float] = {}
        if spec.action.kind == "flat":
            raise InputError("policy.action.kind: expected an action of a robot's task, got flat")
        self._kind = spec.action.kind
        names = list(spec.action_joints)
        self._scale = np.array([spec.action.scale[name] for name in names])
        self._offset: FloatArray = np.zeros(len(names))
        self._relative = spec.action.kind == "position" and spec.action.reference != "default"
        if spec.action.kind == "position":
            self._offset = np.array([spec.joint(name).default_position for name in names])
        self._names = [joint.name for joint in spec.joints]
        self.default_position: FloatArray = np.array([j.default_position for j in spec.joints])
        self._indices: dict[Sequence[str], npt.NDArray[np.intp]] = {}
        self._geoms: dict[Sequence[str], list[int]] = {}  # of feet
        self._found: dict[tuple[str, str], int] = {}  # joint and its kind, or "action"
        self.begin(self.rng)

    def begin(self, rng: np.random.Generator) -> None:
        """Begin an episode.

        Args:
            rng: of its draws.
        """
        self.rng, self.start, self.step = rng, Start(), 0
        self.command = JointCommand(self.spec.action_joints, self._offset, self._kind)
        self.action: FloatArray = np.zeros(len(self._scale))
        self.previous_action: FloatArray = self.action
        self.effort_squared = 0.0
        self.rewards.clear()
        self.forget()

    def placed(self) -> None:
        """Take where the robot is put: relative positions begin there."""
        self.forget()
        if self._relative:
            pose = self.plant.positions(list(self.spec.action_joints))
            self._offset = pose
            self.command = self.command._replace(value=pose)

    def forget(self) -> None:
        """Read the robot anew at the next access: it has moved."""
        self._base: BaseMotion | None = None
        self._position: FloatArray | None = None
        self._velocity: FloatArray | None = None
        self._kinematics = False  # whether positions of bodies are those of the current pose

    def advance(self, command: JointCommand) -> None:
        """Take the command of a control step that has been simulated.

        Args:
            command: of the step.
        """
        self.forget()
        self.command = command
        action = (command.value - self._offset) / self._scale
        if self._relative:
            self._offset = command.value.copy()
        self.previous_action = action if self.step == 0 else self.action
        self.action = action
        drive = self.plant.drive
        # taken at every step, whoever reads it: it is what has come since the last call
        self.effort_squared = 0.0 if drive is None else drive.take_squares() / self.plant.decimation
        self.step += 1

    @property
    def time(self) -> float:
        """Time since the episode began [s]."""
        return self.step * self.spec.period

    @property
    def joint_position(self) -> FloatArray:
        """True positions in the contract's order, shape (n_joints,) [rad or m]."""
        if self._position is None:
            self._position = self.plant.joint_position()
            self._position.flags.writeable = False  # every term of the step reads this array
        return self._position

    @property
    def joint_velocity(self) -> FloatArray:
        """True velocities in the contract's order, shape (n_joints,) [rad/s or m/s]."""
        if self._velocity is None:
            self._velocity = self.plant.data.qvel[self.plant.dofs]
            self._velocity.flags.writeable = False
        return self._velocity

    @property
    def base(self) -> BaseMotion:
        """Motion of the free base.

        Raises:
            InputError: the robot's base is fixed.
        """
        if self._base is None:
            self._base = self.plant.base()
        return self._base

    def indices(self, joints: Sequence[str], what: str = "joints") -> npt.NDArray[np.intp]:
        """Return where joints are in the contract's order, shape (n,).

        Args:
            joints: names or shell patterns; none: all joints.
            what: parameter that has them, for messages.

        Raises:
            InputError: the contract has no such joint, or one is named twice.
        """
        key = tuple(joints)
        if key not in self._indices:
            found = [n for given in key for n in matching(given, self._names, what)]
            unknown = [name for name in found if name not in self._names]
            if unknown:
                raise InputError(f"{what}: expected some of {self._names}, got {unknown[0]!r}")
            if len(set(found)) < len(found):
                raise InputError(f"{what}: expected each joint once, got {found}")
            chosen = [self._names.index(name) for name in found] or range(len(self._names))
            self._indices[key] = np.array(chosen, dtype=np.intp)
        return self._indices[key]

    def joint(self, name: str, kind: str = "") -> int:
        """Return where one joint is in the contract's order.

        Args:
            name: of the joint.
            kind: revolute or prismatic, if only that makes sense.

        Raises:
            InputError: the contract has no such joint.
        """
        if (name, kind) not in self._found:
            known = [joint.name for joint in self.spec.joints if kind in ("", joint.type)]
            if name not in known:
                what = f"a {kind} joint" if kind else "a joint"
                raise InputError(f"expected {what} of the policy, out of {known}, got {name!r}")
            self._found[name, kind] = self._names.index(name)
        return self._found[name, kind]

    def require_feet(self, feet: Sequence[str]) -> None:
        """Refuse feet that the configuration does not name.

        Args:
            feet: names in `sim.feet`.

        Raises:
            InputError: one of them is not there.
        """
        known = list(self.plant.feet)
        if unknown := [foot for foot in feet if foot not in known]:
            raise InputError(f"feet: expected feet of sim.feet, {known}, got {unknown[0]!r}")

    def foot_geoms(self, feet: Sequence[str]) -> list[int]:
        """Return the geoms of feet, by their numbers in the model.

        Args:
            feet: names in `sim.feet`, or of geoms of the model.

        Raises:
            InputError: one of them is neither.
        """
        key = tuple(feet)
        if key not in self._geoms:
            model, known = self.plant.model, self.plant.feet
            found = []
            for foot in key:
                geom = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, foot)
                if foot not in known and geom < 0:
                    raise InputError(
                        f"feet: expected feet of sim.feet, {list(known)}, or geoms of the model,"
                        f" got {foot!r}"
                    )
                found.append(known.get(foot, int(geom)))
            self._geoms[key] = found
        return self._geoms[key]

    def action_index(self, joint: str) -> int:
        """Return where a joint is in the action.

        Args:
            joint: its name.

        Raises:
            InputError: it is not commanded.
        """
        if (joint, "action") not in self._found:
            names = list(self.spec.action_joints)
            if joint not in names:
                raise InputError(f"expected a joint of action.scale, {names}, got {joint!r}")
            self._found[joint, "action"] = names.index(joint)
        return self._found[joint, "action"]

    def commanded(self, name: str, size: int | None = None) -> FloatArray:
        """Return the current value of a command, shape (size,), in its unit.

        Args:
            name: in `task.commands`.
            size: that it has to have.

        Raises:
            InputError: the task has no such command, or it has another size.
        """
        value = self.commands.get(name)
        if value is None:
            raise InputError(
                f"expected a command of the task, out of {list(self.commands)}, got {name!r}"
            )
        if size is not None and len(value) != size:
            raise InputError(f"expected a command of {size} numbers, {name} has {len(value)}")
        return value

    def site(self, name: str) -> FloatArray:
        """Return the position of a site in the frame of the robot's base, shape (3,) [m].

        The base is the root body; where it is not free, its frame is the one in which the model
        places it, before its own joint moves it.

        Args:
            name: of the site in the model.

        Raises:
            InputError: the model has no such site.
        """
        model, data = self.plant.model, self.plant.data
        number = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, name)
        if number < 0:
            known = [model.site(i).name for i in range(model.nsite)]
            raise InputError(f"expected a site of the model, out of {known}, got {name!r}")
        self._update_kinematics()
        origin, rotation = self._base_frame()
        position: FloatArray = rotation.T @ (data.site_xpos[number] - origin)
        return position

    def show(self, name: str) -> None:
        """Move the mocap body of a command's name, if the model has one, to the commanded point.

        It is only there to be seen. A command of another size than 3 is not shown.

        Args:
            name: of the command.
        """
        model, data = self.plant.model, self.plant.data
        body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
        if body < 0 or model.body_mocapid[body] < 0 or len(self.commands[name]) != 3:
            return
        origin, rotation = self._base_frame()
        data.mocap_pos[model.body_mocapid[body]] = origin + rotation @ self.commands[name]

    def _base_frame(self) -> tuple[FloatArray, FloatArray]:
        """Return origin and rotation of the base's frame, shapes (3,) [m] and (3, 3)."""
        model, data, root = self.plant.model, self.plant.data, self.plant.root
        if self.plant.has_free_base:
            return data.xpos[root], data.xmat[root].reshape(3, 3)
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, model.body_quat[root])
        return model.body_pos[root], rotation.reshape(3, 3)

    def site_in_random_pose(
        self,
        name: str,
        joints: npt.NDArray[np.intp],
        draw: Callable[[], FloatArray],
        accept: Callable[[FloatArray], bool],
    ) -> FloatArray:
        """Return where a site is in the first accepted pose; the robot itself is not moved.

        Args:
            name: of the site.
            joints: in the contract's order, shape (n,).
            draw: returns their positions, shape (n,) [rad or m].
            accept: whether a position of the site will do, shape (3,) [m].

        Raises:
            InputError: none of MAX_DRAWS poses was accepted.
        """
        data = self.plant.data
        address = self.plant.qpos_indices[joints]
        before = data.qpos[address].copy()
        try:
            for _ in range(MAX_DRAWS):
                data.qpos[address] = draw()
                self._kinematics = False
                point = self.site(name)
                if accept(point):
                    return point
        finally:
            data.qpos[address] = before
            self._kinematics = False
            self._update_kinematics()  # what is rendered, or a term reads of the data, is as it was
        raise InputError(f"expected limits that a random pose meets, got none in {MAX_DRAWS} draws")

    def _update_kinematics(self) -> None:
        # mj_step computes positions of bodies and sites before it moves the joints
        if not self._kinematics:
            mujoco.mj_kinematics(self.plant.model, self.plant.data)
            self._kinematics = True
