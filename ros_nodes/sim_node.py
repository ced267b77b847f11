"""sim_node: a MuJoCo robot behind the topics of a real one. `ros2 run dime_robot sim_node`.

The same Plant as in training, its state as JointState (and Imu), its commands as the robot's own
kind. It stands in its start pose until the first command, so an episode begins where a training
episode begins. In lockstep every state waits for its command and /clock is served; otherwise the
simulation keeps to the wall clock, and where commands stop coming the robot's own time-out acts
(see sim_timeout). Where the task follows a velocity it is judged by what is asked on the topic the
policy hears too. At the end of an episode, or where the robot falls, `~/episode` says as JSON what
it came to; a configuration without a task has no episodes. Told to end, it goes on for as long as
it is commanded, so that a policy_node that was told the same can lead the robot to rest.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(eval=("mujoco", "gymnasium"), ros=("rclpy",))

import json
import math
import sys
import time
import traceback
from typing import Any, cast

import numpy as np
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from dime_robot.runtime.control.joint_mapping import JointMapping
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.control.velocity_command import VelocityCommand
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import TaskConfig, load_robot_task
from dime_robot.sim.plant.plant import make_plant
from dime_robot.sim.tasks.task import Task, make_task
from ros_nodes.conversions import (
    COMMAND_QOS,
    STATE_QOS,
    TWIST_TYPES,
    CommandMessage,
    TwistMessage,
    command_type,
    command_values,
    stamp_of,
    twist_values,
)
from ros_nodes.parameters import (
    SimParameters,
    check_parameters,
    read_parameters,
    require_known_parameters,
)
from ros_nodes.process import LONGEST_WAIT, make_executor, run_node
from ros_nodes.sim_faults import InjectedFault
from ros_nodes.sim_sensors import Sensors
from ros_nodes.sim_states import StateTopics
from ros_nodes.sim_timeout import CommandTimeout, OnTimeout, TimeoutResponse
from ros_nodes.topic_types import type_mismatches

REPEAT_AFTER = 0.5  # [s] a state without an answer in lockstep is sent again
TIME_BETWEEN_EPISODES = 1.0  # [s] of simulated time
LARGEST_LAG = 0.05  # [s] behind the wall clock before the lost time is given up
LOOK = 1.0  # [s] between two looks at who else is on the topics
QUIET = 0.3  # [s] without a command after which nobody commands any more
LONGEST_FAREWELL = 10.0  # [s] of going on at the end for somebody who still commands


class SimNode(Node):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__("sim_node")
        self.exit_code: int | None = None
        given = read_parameters(self, SimParameters)
        require_known_parameters(self)
        config, model = load_robot_task(given.config)
        self._config, self._lockstep = config, given.mode == "lockstep"
        self._plant = make_plant(config, model)
        self._task: Task | None = None
        if config.task is not None:  # a robot can be simulated without one
            self._task = make_task(config, self._plant)
        self._mapping = JointMapping(config.policy, config.robot)
        self._random = np.random.default_rng(given.seed)
        self._episode_steps = _episode_steps(config.task, given, config.policy.rate)
        rate = given.state_rate or config.robot.state.rate
        self._steps_per_state = round(1 / (rate * config.sim.timestep))
        if abs(self._steps_per_state * rate * config.sim.timestep - 1) > 1e-6:
            raise InputError(
                f"state_rate: expected a whole number of simulation steps of"
                f" {config.sim.timestep:g} s between two states, got {rate:g} Hz"
            )
        robot = config.robot
        self._timeout = CommandTimeout(robot.command.timeout)
        # `read_parameters` has checked the choice
        on_timeout = cast(OnTimeout, given.on_timeout)
        self._answer = TimeoutResponse(config.policy, robot, on_timeout)
        sensors = Sensors(
            config.policy,
            given.encoder_counts,
            given.position_noise,
            given.velocity_noise,
            given.imu_noise,
            given.seed,
        )
        fault = self._fault(given.fault)
        held = list(config.policy.held_joints)
        self._states = StateTopics(
            self,
            robot,
            self._mapping,
            sensors,
            fault,
            not self._lockstep,
            lambda: self._plant.positions(held),
        )
        # name, type and section of every topic
        self._topics: list[tuple[str, type, str]] = [(robot.state.topic, JointState, "robot.state")]
        if robot.imu is not None:
            self._topics.append((robot.imu.topic, Imu, "robot.imu"))
        self._episodes: Publisher[String] | None = None
        if self._task is not None:
            self._episodes = self._publish_on("~/episode", String, "")
        self._clocks: Publisher[Clock] | None = None
        if self._lockstep:
            self._clocks = self._publish_on("/clock", Clock, "")
        kind = command_type(robot.command)
        self._topics.append((robot.command.topic, kind, "robot.command"))
        self.create_subscription(kind, robot.command.topic, self._on_command, COMMAND_QOS)
        self._velocity: VelocityCommand | None = None
        if self._task is not None and self._task.command_velocity is not None:
            self._velocity = self._follow_operator(given.config)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._time_base = 0.0
        self._heard = -math.inf  # when the last command came, steady [s]
        self._next_look, self._said = 0.0, set[str]()
        self._begin()
        self.get_logger().info(
            f"{config.policy.name}: states at {rate:g} Hz on {robot.state.topic}, commands on"
            f" {robot.command.topic}, {given.mode}"
        )

    def _publish_on(self, topic: str, kind: type, section: str) -> Publisher[Any]:
        self._topics.append((topic, kind, section))
        return self.create_publisher(kind, topic, 10)

    def _follow_operator(self, config: str) -> VelocityCommand:
        """Hear what the operator asks of the base."""
        operator = self._config.robot.command_velocity
        if operator is None:
            raise InputError(
                f"{config}: its task follows a velocity: expected a section robot.command_velocity"
                " that says where it is asked for"
            )
        kind = TWIST_TYPES[operator.type]
        self._topics.append((operator.topic, kind, "robot.command_velocity"))
        self.create_subscription(kind, operator.topic, self._on_velocity, STATE_QOS)
        return VelocityCommand(operator)

    def _fault(self, text: str) -> InjectedFault:
        robot = self._config.robot
        has_imu = robot.imu is not None and self._config.sim.imu is not None
        return InjectedFault(text, [joint.hardware_name for joint in robot.joints], has_imu)

    def _begin(self) -> None:
        """A new episode: at rest in a start pose, waiting for the first command."""
        self._time_base += self._plant.state().stamp + TIME_BETWEEN_EPISODES  # never goes back
        self._follow()
        if self._task is not None:
            self._task.start(self._random)
        else:
            self._plant.reset(self._plant.default_pose)
        self._running = self._over = False
        self._physics_steps = self._control_steps = 0
        self._next_state = 0.0  # in physics steps
        self._return = 0.0
        self._sums: dict[str, float] = {}  # over control steps, of what the task measures
        self._command: JointCommand | None = None
        self._timeout.restart()
        self._due = time.monotonic()
        self._last_sent = 0.0

    # ---- messages

    def _on_command(self, message: CommandMessage) -> None:
        values = command_values(message, self._mapping)
        if values is None:
            self.get_logger().warning(
                "a command that is not for this robot was ignored", throttle_duration_sec=5.0
            )
            return
        self._heard = time.monotonic()
        self._command = command = self._mapping.commanded(values)
        self._plant.command(command)
        if self._timeout.command(self._motor_time()):
            self.get_logger().info("commands come again, followed")
        if not self._running:
            self._running, self._due = True, time.monotonic()
        if self._lockstep:
            self._advance(self._config.sim.decimation)
            self._send_state()

    def _on_velocity(self, message: TwistMessage) -> None:
        assert self._velocity is not None
        self._velocity.receive(twist_values(message), self._steady())

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._begin()
        response.success = True
        return response

    def _on_set_parameters(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        if problem := check_parameters(SimParameters, parameters):
            return SetParametersResult(successful=False, reason=problem)
        for parameter in parameters:
            if parameter.name != "fault":
                continue
            try:
                self._states.fault = self._fault(str(parameter.value))
            except InputError as error:
                return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    # ---- physics

    def wait(self) -> float:
        """See `process.Running`."""
        until = time.monotonic() + LONGEST_WAIT if self._lockstep else self._due
        return min(until, self._states.next_late) - time.monotonic()

    def tick(self) -> None:
        """See `process.Running`."""
        now = time.monotonic()
        self._states.flush(now)
        if now >= self._next_look:
            self._next_look = now + LOOK
            self._look_around()
        if self._lockstep:
            if now - self._last_sent > REPEAT_AFTER:  # the first one, or one that was lost
                self._send_state()
            return
        if now - self._due > LARGEST_LAG:
            self.get_logger().warning(f"{now - self._due:.2f} s behind the wall clock, given up")
            self._due = now
        while self._due <= now:
            while self._physics_steps >= self._next_state:
                self._send_state()
                self._next_state += self._steps_per_state / self._states.fault.rate
            self._advance(1)
            self._due += self._config.sim.timestep

    def _advance(self, steps: int) -> None:
        """Simulate, and account for the task at the end of each control period."""
        if not self._running:
            self._physics_steps += steps
            return
        self._look_for_commands()
        self._plant.advance(steps)
        self._physics_steps += steps
        self._control_steps += steps
        if self._control_steps % self._config.sim.decimation == 0:
            self._account()

    def _motor_time(self) -> float:
        """Time as the robot's motors count it, in this episode [s].

        That of the physics: a simulation that was kept from running has not missed a command, nor
        has one in lockstep, which waits for its command however long that takes.
        """
        return self._physics_steps * self._config.sim.timestep

    def _look_for_commands(self) -> None:
        """The robot's own time-out."""
        if self._timeout.look(self._motor_time()):
            text = f"no command for {self._timeout.timeout:g} s: {self._answer.word}"
            if self._over:  # nobody expects one
                self.get_logger().info(text)
            else:
                self.get_logger().warning(text)
        if not self._timeout.expired:
            return
        plant = self._plant
        command = self._answer.command(plant.joint_position(), plant.data.qvel[plant.dofs])
        if command is not None:
            self._command = command
            plant.command(command)

    def _account(self) -> None:
        assert self._command is not None
        if self._over or self._task is None:
            return
        steps = self._control_steps // self._config.sim.decimation
        self._follow()
        self._return += self._task.step(self._command, self._random)
        for name, value in self._task.metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        fallen = self._task.terminated()
        self._over = fallen or steps == self._episode_steps
        if not self._over:
            return
        result = {"return": self._return, "steps": steps, "success": self._task.is_success()}
        result |= {name: total / steps for name, total in self._sums.items()}
        if self._velocity is not None:
            result["fallen"] = fallen
        assert self._episodes is not None
        self._episodes.publish(String(data=json.dumps(result)))

    def _follow(self) -> None:
        """Judge by what is asked now: the policy heard it too."""
        if self._velocity is not None and self._task is not None:
            self._task.set_command(self._velocity.at(self._steady()).tolist())

    def _steady(self) -> float:
        """Time that never goes back [s]: policy_node tells time-outs by the same."""
        if self._lockstep:
            return self._time_base + float(self._plant.data.time)
        return time.monotonic()

    def _send_state(self) -> None:
        state = self._plant.state()
        clock = self._time_base + state.stamp if self._lockstep else time.time()
        clock = self._states.fault.time(clock)
        if self._clocks is not None:
            self._last_sent = time.monotonic()
            self._clocks.publish(Clock(clock=stamp_of(clock)))
        self._states.send(state, clock)

    def _look_around(self) -> None:
        """Say once who speaks another type on our topics."""
        for topic, kind, section in self._topics:
            for sentence in type_mismatches(self, topic, kind, section):
                if sentence not in self._said:
                    self._said.add(sentence)
                    self.get_logger().warning(sentence)

    # ---- the way out

    def close(self) -> None:
        """See `process.Running`: go on for those who still command, at most LONGEST_FAREWELL."""
        until = time.monotonic() + LONGEST_FAREWELL
        if time.monotonic() < self._heard + QUIET:
            self.get_logger().info(
                f"told to end: goes on while commands come, at most {LONGEST_FAREWELL:g} s"
            )
        executor = self.executor
        if executor is None:
            executor = make_executor()
            executor.add_node(self)
        try:
            looked = (
                self._heard
            )  # quiet counts from the last look at the messages, not from a stall
            while time.monotonic() < until and looked < self._heard + QUIET:
                executor.spin_once(timeout_sec=min(LONGEST_WAIT, max(0.0, self.wait())))
                looked += min(time.monotonic() - looked, QUIET / 4)
                self.tick()
        except Exception:  # the very one, perhaps, that has ended the process
            traceback.print_exc()


def _episode_steps(task: TaskConfig | None, given: SimParameters, rate: float) -> int:
    """Control steps of an episode; 0: there are none.

    Raises:
        InputError: their length is given, and there are none.
    """
    if task is not None:
        return round((given.episode_seconds or task.episode_seconds) * rate)
    if given.episode_seconds:
        raise InputError(
            f"parameter episode_seconds: expected 0, since {given.config} has no task and so no"
            f" episodes, got {given.episode_seconds:g}",
            code="parameter",
        )
    return 0


def main() -> int:
    """Run until told to stop."""
    return run_node(SimNode)


if __name__ == "__main__":
    sys.exit(main())
