"""Plant: the simulated robot. A JointCommand goes in, a RobotState comes out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mujoco
import numpy as np

from dime_robot.runtime.errors import InputError
from dime_robot.runtime.spec import PolicySpec
from dime_robot.runtime.state import JointCommand, RobotState
from dime_robot.sim.config import SimConfig


def load_model(path: Path, timestep: float) -> mujoco.MjModel:
    """Compile an MJCF file with the configured time step [s].

    Raises:
        InputError: the file is missing or MuJoCo refuses it.
    """
    try:
        model = mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise InputError(f"{path}: MuJoCo cannot load it: {' '.join(str(error).split())}") from None
    model.opt.timestep = timestep
    return model


class Plant:
    """A MuJoCo model addressed by the contract's joint names.

    Args:
        spec: joints in policy order.
        sim: simulation settings.
        model_path: MJCF file.

    Raises:
        InputError: a joint of the contract is missing in the model, has no motor though it is
            commanded, or the model's stops or force limit differ from the contract's.
    """

    def __init__(self, spec: PolicySpec, sim: SimConfig, model_path: Path) -> None:
        self.model = load_model(model_path, sim.timestep)
        self.data = mujoco.MjData(self.model)
        self._decimation = sim.decimation
        joint_ids = {}
        for joint in spec.joints:
            joint_id = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_JOINT, joint.name)
            if joint_id < 0:
                names = [self.model.joint(i).name for i in range(self.model.njnt)]
                raise InputError(f"{model_path}: expected a joint {joint.name}, got {names}")
            limited = bool(self.model.jnt_limited[joint_id])
            limits = tuple(self.model.jnt_range[joint_id].tolist()) if limited else None
            if limits != joint.position_limits:
                raise InputError(
                    f"{model_path}: joint {joint.name}: expected position limits"
                    f" {joint.position_limits} as in the contract, got {limits}"
                )
            joint_ids[joint.name] = joint_id
        self._qpos = np.array([self.model.jnt_qposadr[i] for i in joint_ids.values()])
        self._qvel = np.array([self.model.jnt_dofadr[i] for i in joint_ids.values()])
        self._index = {name: i for i, name in enumerate(joint_ids)}
        efforts = {joint.name: joint.effort_limit for joint in spec.joints}
        self._actuator = {
            name: self._motor_of(name, joint_ids[name], efforts[name], model_path)
            for name in spec.action_joints
        }

    def _motor_of(self, name: str, joint_id: int, limit: float | None, path: Path) -> int:
        for actuator in range(self.model.nu):
            if self.model.actuator_trnid[actuator, 0] == joint_id:
                got = self.model.actuator_ctrlrange[actuator]
                if limit is None or not np.allclose(got, [-limit, limit]):
                    raise InputError(
                        f"{path}: motor of {name}: expected ctrlrange [{-(limit or 0)},"
                        f" {limit}] as in the contract, got {got.tolist()}"
                    )
                return actuator
        raise InputError(f"{path}: expected a motor on joint {name}, got none")

    def reset(self, positions: Mapping[str, float]) -> RobotState:
        """Put the robot at rest at these joint positions [rad or m]."""
        mujoco.mj_resetData(self.model, self.data)
        for name, position in positions.items():
            self.data.qpos[self._qpos[self._index[name]]] = position
        mujoco.mj_forward(self.model, self.data)
        return self.state()

    def step(self, command: JointCommand) -> RobotState:
        """Hold the command for one control period."""
        for name, effort in zip(command.joints, command.effort, strict=True):
            self.data.ctrl[self._actuator[name]] = effort
        mujoco.mj_step(self.model, self.data, nstep=self._decimation)
        return self.state()

    def state(self) -> RobotState:
        """The current reading; its arrays are copies."""
        return RobotState(
            stamp=float(self.data.time),
            joint_position=self.data.qpos[self._qpos],
            joint_velocity=self.data.qvel[self._qvel],
        )
