"""sim_node: a MuJoCo robot behind the topics of a real one. `ros2 run dime_robot sim_node`.

The same Plant as in training, its state as JointState (and Imu), its commands as the robot's own
kind. It stands in its start pose until the first command, so an episode begins where a training
episode begins. In lockstep every state waits for its command and /clock is served; otherwise the
simulation keeps to the wall clock. Where the task follows a velocity it is judged by what is asked
on the topic the policy hears too. At the end of an episode, or where the robot falls, `~/episode`
says as JSON what it came to.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.extras import require_extras

    require_extras(eval=("mujoco", "gymnasium"), ros=("rclpy",))

import json
import sys
import time
from array import array
from collections import deque

import numpy as np
from geometry_msgs.msg import Twist
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from dime_robot.runtime.errors import InputError
from dime_robot.runtime.state import JointCommand
from dime_robot.runtime.wiring import Wiring
from dime_robot.sim.config import load_robot_task
from dime_robot.sim.plant import make_plant
from dime_robot.sim.tasks import make_task
from ros_nodes.conversions import (
    COMMAND_QOS,
    COMMAND_TYPES,
    STATE_QOS,
    CommandMessage,
    command_values,
    stamp_of,
)
from ros_nodes.parameters import SimParameters, read_parameters
from ros_nodes.process import LONGEST_WAIT, run_node
from ros_nodes.sim_faults import Fault, imu_message
from ros_nodes.steering import Steering

REPEAT_AFTER = 0.5  # [s] a state without an answer in lockstep is sent again
TIME_BETWEEN_EPISODES = 1.0  # [s] of simulated time
LARGEST_LAG = 0.05  # [s] behind the wall clock before the lost time is given up


class SimNode(Node):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__("sim_node")
        self.exit_code: int | None = None
        given = read_parameters(self, SimParameters)
        config, model = load_robot_task(given.config)
        self._config, self._lockstep = config, given.mode == "lockstep"
        self._plant = make_plant(config, model)
        self._task = make_task(config, self._plant)
        self._wiring = Wiring(config.policy, config.robot)
        self._random = np.random.default_rng(given.seed)
        episode_seconds = given.episode_seconds or config.episode_seconds
        self._episode_steps = round(episode_seconds * config.policy.rate)
        rate = given.state_rate or config.robot.state.rate
        self._steps_per_state = round(1 / (rate * config.sim.timestep))
        if abs(self._steps_per_state * rate * config.sim.timestep - 1) > 1e-6:
            raise InputError(
                f"state_rate: expected a whole number of simulation steps of"
                f" {config.sim.timestep:g} s between two states, got {rate:g} Hz"
            )
        robot = config.robot
        self._joint_states = self.create_publisher(JointState, robot.state.topic, 10)
        self._imus = self.create_publisher(Imu, robot.imu.topic, 10) if robot.imu else None
        self._episodes = self.create_publisher(String, "~/episode", 10)
        self._clocks = self.create_publisher(Clock, "/clock", 10)
        self.create_subscription(
            COMMAND_TYPES[robot.command.kind], robot.command.topic, self._on_command, COMMAND_QOS
        )
        self._steering: Steering | None = None
        if self._task.asked is not None:
            if robot.command_velocity is None:
                raise InputError(
                    f"{given.config}: its task follows a velocity: expected a section"
                    " robot.command_velocity that says where it is asked for"
                )
            self._steering = Steering(robot.command_velocity)
            self.create_subscription(
                Twist, robot.command_velocity.topic, self._on_velocity, STATE_QOS
            )
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.fault = Fault(given.fault, [joint.wire for joint in robot.joints])
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._late: deque[tuple[float, JointState]] = deque()  # states held back by a fault
        self._time_base = 0.0
        self._begin()
        self.get_logger().info(
            f"{config.policy.name}: states at {rate:g} Hz on {robot.state.topic}, commands on"
            f" {robot.command.topic}, {given.mode}"
        )

    def _begin(self) -> None:
        """A new episode: at rest in a start pose, waiting for the first command."""
        self._time_base += self._plant.state().stamp + TIME_BETWEEN_EPISODES  # never goes back
        self._follow()
        self._task.start(self._random)
        self._running = self._over = False
        self._physics_steps = self._control_steps = 0
        self._return = 0.0
        self._sums: dict[str, float] = {}  # over control steps, of what the task measures
        self._command: JointCommand | None = None
        self._due = time.monotonic()
        self._last_sent = 0.0

    # ---- messages

    def _on_command(self, message: CommandMessage) -> None:
        values = command_values(message, self._wiring)
        if values is None:
            self.get_logger().warning("a command that is not for this robot was ignored")
            return
        self._command = command = self._wiring.commanded(values)
        self._plant.command(command)
        if not self._running:
            self._running, self._due = True, time.monotonic()
        if self._lockstep:
            self._advance(self._config.sim.decimation)
            self._send_state()

    def _on_velocity(self, message: Twist) -> None:
        assert self._steering is not None
        self._steering.receive(message, self._steady())

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._begin()
        response.success = True
        return response

    def _on_set_parameters(self, parameters: list[Parameter[str]]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name != "fault":
                return SetParametersResult(
                    successful=False, reason=f"{parameter.name} is read at start only"
                )
            try:
                joints = [joint.wire for joint in self._config.robot.joints]
                self.fault = Fault(str(parameter.value), joints)
            except InputError as error:
                return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    # ---- physics

    def wait(self) -> float:
        """See `process.Running`."""
        if self._lockstep:
            return LONGEST_WAIT
        until = self._due
        if self._late:
            until = min(until, self._late[0][0])
        return until - time.monotonic()

    def tick(self) -> None:
        """See `process.Running`."""
        now = time.monotonic()
        while self._late and self._late[0][0] <= now:
            self._joint_states.publish(self._late.popleft()[1])
        if self._lockstep:
            if now - self._last_sent > REPEAT_AFTER:  # the first one, or one that was lost
                self._send_state()
            return
        if now - self._due > LARGEST_LAG:
            self.get_logger().warning(f"{now - self._due:.2f} s behind the wall clock, given up")
            self._due = now
        step = self._config.sim.timestep / self.fault.speed_up
        while self._due <= now:
            if self._physics_steps % self._steps_per_state == 0:
                self._send_state()
            self._advance(1)
            self._due += step

    def _advance(self, steps: int) -> None:
        """Simulate, and account for the task at the end of each control period."""
        if not self._running:
            self._physics_steps += steps
            return
        self._plant.advance(steps)
        self._physics_steps += steps
        self._control_steps += steps
        if self._control_steps % self._config.sim.decimation == 0:
            self._account()

    def _account(self) -> None:
        assert self._command is not None
        if self._over:
            return
        count = self._control_steps // self._config.sim.decimation
        self._follow()
        self._return += self._task.step(self._command, self._random)
        for name, value in self._task.measures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        fallen = self._task.terminated()
        self._over = fallen or count == self._episode_steps
        if not self._over:
            return
        result = {"return": self._return, "steps": count, "success": self._task.is_success()}
        result |= {name: total / count for name, total in self._sums.items()}
        if self._steering is not None:
            result["fallen"] = fallen
        self._episodes.publish(String(data=json.dumps(result)))

    def _follow(self) -> None:
        """Judge by what is asked now: the policy heard it too."""
        if self._steering is not None:
            self._task.follow(self._steering.asked(self._steady()).tolist())

    def _steady(self) -> float:
        """Time that never goes back [s]: policy_node tells time-outs by the same."""
        if self._lockstep:
            return self._time_base + float(self._plant.data.time)
        return time.monotonic()

    def _send_state(self) -> None:
        state = self._plant.state()
        stamp = stamp_of(self._time_base + state.stamp if self._lockstep else time.time())
        if self._lockstep:
            self._last_sent = time.monotonic()
            self._clocks.publish(Clock(clock=stamp))
        if self._imus is not None and state.orientation is not None:
            assert state.angular_velocity is not None
            imu = imu_message(state.orientation, state.angular_velocity)
            imu.header.stamp = stamp
            seen = self.fault.imu(imu)
            if seen is not None:
                self._imus.publish(seen)
        names, position, velocity = self._wiring.readings(state)
        message = JointState(name=names)
        message.header.stamp = stamp
        message.position, message.velocity = array("d", position), array("d", velocity)
        sent = self.fault.joint_state(message)
        if sent is None:
            return
        if self.fault.delay:
            self._late.append((time.monotonic() + self.fault.delay, sent))
        else:
            self._joint_states.publish(sent)

    def close(self) -> None:
        """See `process.Running`."""


def main() -> int:
    """Run until told to stop."""
    return run_node(SimNode)


if __name__ == "__main__":
    sys.exit(main())
