"""sim_node: a MuJoCo robot with the topics of a real one. `ros2 run dime_robot sim_node`.

It simulates the same Plant as training, publishes its state as JointState (and Imu), and takes the
robot's own kind of commands. The robot stays in its start pose until the first command, so an
episode begins like a training episode. In lockstep every state waits for its command and /clock is
published; otherwise the simulation follows the wall clock, and when commands stop the robot's own
time-out acts (see sim_timeout). A task is evaluated with the commands on the topics that the policy
subscribes to, and its observations are published as the robot's own sensors. At the end of an
episode, or when the robot falls, the result is published on `~/episode` as JSON; a configuration
without a task has no episodes.
After SIGTERM or SIGINT it keeps running while commands arrive, so that policy_node, which may have
received the same signal, can bring the robot to rest.
A robot with phases begins lying, in the last pose of `sit_down`; an episode of the task begins with
the phase `policy` of policy_node, which it publishes on `policy_node/phase`.
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
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Imu, JointState, Joy
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import Trigger

from dime_robot.runtime.contract.phases import PhasesConfig, phase_problems, pose_of
from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.control.joint_mapping import JointMapping
from dime_robot.runtime.control.joystick import Joystick
from dime_robot.runtime.control.phases import is_policy
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.control.velocity_command import VelocityCommand
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import RobotTaskConfig, load_robot_task
from dime_robot.sim.config.task import VELOCITY, TaskConfig
from dime_robot.sim.config.trust import typed_env
from dime_robot.sim.plant.lying import lie
from dime_robot.sim.plant.plant import make_plant
from dime_robot.sim.tasks.task import Task
from ros_nodes.conversions import (
    COMMAND_QOS,
    JOYSTICK_QOS,
    PHASE_QOS,
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
    help_asked,
    help_of,
    read_parameters,
    require_known_parameters,
)
from ros_nodes.process import MAX_WAIT, make_executor, run_node
from ros_nodes.sim_faults import InjectedFault
from ros_nodes.sim_sensors import Sensors
from ros_nodes.sim_signals import SimSignals
from ros_nodes.sim_states import Outgoing, StateTopics
from ros_nodes.sim_timeout import CommandTimeout, OnTimeout, TimeoutResponse
from ros_nodes.topic_types import type_mismatches

RESEND_PERIOD = 0.5  # [s] after which a state without a command is sent again in lockstep
TIME_BETWEEN_EPISODES = 1.0  # [s] of simulated time
MAX_LAG = 0.05  # [s] behind the wall clock before the lost time is dropped
POLL_PERIOD = 1.0  # [s] between two checks of the message types on the topics
PHASE_TOPIC = "policy_node/phase"
QUIET_TIME = 0.3  # [s] without a command after which no node commands any more
MAX_REST_TIME = 10.0  # [s] of further running at the end while a node still commands


class SimNode(Node):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__("sim_node")
        self.exit_code: int | None = None
        given = read_parameters(self, SimParameters, self._set_fault)
        require_known_parameters(self)
        typed_env(f"sim:{given.config}")  # a parameter of the command line
        config, model = load_robot_task(given.config)
        self._config, self._lockstep = config, given.mode == "lockstep"
        # in lockstep a message is a whole step's command; else all of them come as messages
        self._plant = make_plant(config, model, interpolates=self._lockstep)
        self._task: Task | None = None
        if config.task is not None:
            self._task = Task(config, self._plant)
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
        on_timeout = cast(OnTimeout, given.on_timeout)  # checked by `read_parameters`
        self._response = TimeoutResponse(config.policy, robot, on_timeout)
        held = list(config.policy.held_joints)
        self._states = StateTopics(
            self,
            robot,
            self._mapping,
            Sensors(config.policy, given),
            self._fault(given.fault),
            not self._lockstep,
            lambda: self._plant.positions(held),
            others=self._sensor_messages,
            forces=self._foot_forces,
        )
        # name, type and section of every topic
        self._topics: list[tuple[str, type, str]] = [(robot.state.topic, JointState, "robot.state")]
        if robot.imu is not None:
            self._topics.append((robot.imu.topic, Imu, "robot.imu"))
        if robot.contact is not None:
            self._topics.append((robot.contact.topic, Float64MultiArray, "robot.contact"))
        self._episodes: Publisher[String] = self._publish_on("~/episode", String, "")
        self._clocks: Publisher[Clock] | None = None
        if self._lockstep:
            self._clocks = self._publish_on("/clock", Clock, "")
        kind = command_type(robot.command)
        self._topics.append((robot.command.topic, kind, "robot.command"))
        self.create_subscription(kind, robot.command.topic, self._on_command, COMMAND_QOS)
        self._signals = SimSignals(self, config.policy, robot, self._steady)
        self._topics += self._signals.topics
        self._velocity: VelocityCommand | Joystick | None = None
        if self._task is not None and self._task.command_velocity is not None:
            self._velocity = self._subscribe_to_velocity(given.config)
        self._lying: dict[str, float] | None = None  # the pose in which an episode begins
        if robot.phases is not None:
            self._lying = _lying_pose(robot.phases, config, given.config)
            self.create_subscription(String, PHASE_TOPIC, self._on_phase, PHASE_QOS)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self._time_base = 0.0
        self._commanded_at = -math.inf  # when the last command came, steady [s]
        self._next_poll = 0.0
        self._logged_mismatches: set[str] = set()
        self._begin()
        self.get_logger().info(
            f"{config.policy.name}: states at {rate:g} Hz on {robot.state.topic}, commands on"
            f" {robot.command.topic}, {given.mode}"
        )

    def _publish_on(self, topic: str, kind: type, section: str) -> Publisher[Any]:
        self._topics.append((topic, kind, section))
        return self.create_publisher(kind, topic, 10)

    def _subscribe_to_velocity(self, config: str) -> VelocityCommand | Joystick:
        """Subscribe to the operator's velocity command."""
        operator = self._config.robot.command_velocity
        if operator is None:
            raise InputError(
                f"{config}: its task follows a velocity: expected a section robot.command_velocity"
                " with its topic"
            )
        joystick = self._config.robot.joystick
        if joystick is not None and joystick.axes:
            return self._subscribe_to_joystick(Joystick(joystick, operator), joystick.topic)
        kind = TWIST_TYPES[operator.type]
        self._topics.append((operator.topic, kind, "robot.command_velocity"))
        velocity = VelocityCommand(operator)

        def on_velocity(message: TwistMessage) -> None:
            velocity.receive(twist_values(message), self._steady())

        self.create_subscription(kind, operator.topic, on_velocity, STATE_QOS)
        return velocity

    def _subscribe_to_joystick(self, joystick: Joystick, topic: str) -> Joystick:
        self._topics.append((topic, Joy, "robot.joystick"))

        def on_joystick(message: Joy) -> None:
            joystick.receive(np.array(message.axes, dtype=float), message.buttons, self._steady())

        self.create_subscription(Joy, topic, on_joystick, JOYSTICK_QOS)
        return joystick

    def _fault(self, text: str) -> InjectedFault:
        robot = self._config.robot
        has_imu = robot.imu is not None and self._config.sim.imu is not None
        names, has_contact = (
            [joint.hardware_name for joint in robot.joints],
            robot.contact is not None,
        )
        return InjectedFault(text, names, has_imu, has_contact)

    def _foot_forces(self) -> FloatArray:
        contact = self._config.robot.contact
        return self._plant.foot_forces(() if contact is None else contact.feet)

    def _begin(self) -> None:
        """Begin an episode: at rest in a start pose, waiting for the first command."""
        self._time_base += self._plant.state().stamp + TIME_BETWEEN_EPISODES  # never goes back
        self._set_commands()
        if self._task is not None:
            self._task.start(self._random)
        else:
            self._plant.reset(self._plant.default_pose)
        if self._lying is not None:
            lie(self._plant, self._response.command, self._lying)
        self._judges = self._lying is None
        self._running = self._over = False
        self._physics_steps = self._control_steps = 0
        self._next_state = 0.0  # in physics steps
        self._return = 0.0
        self._sums: dict[str, float] = {}  # over control steps, of the task's metrics
        self._command: JointCommand | None = None
        self._timeout.restart()
        self._due = time.monotonic()
        self._last_sent = 0.0

    # ---- messages

    def _on_command(self, message: CommandMessage) -> None:
        values = command_values(message, self._mapping)
        if values is None:
            self.get_logger().warning(
                "a command that does not fit this robot was ignored", throttle_duration_sec=5.0
            )
            return
        self._commanded_at = time.monotonic()
        self._command = command = self._mapping.commanded(values)
        self._plant.command(command)
        if self._timeout.command(self._motor_time()):
            self.get_logger().info("commands come again and are followed")
        if not self._running:
            self._running, self._due = True, time.monotonic()
        if self._lockstep:
            self._advance(self._config.sim.decimation)
            self._send_state()

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._running:  # else an episode is about to begin already
            self._begin()
        response.success = True
        return response

    def _on_phase(self, message: String) -> None:
        """Begin to evaluate the task with the first step of the policy."""
        if is_policy(message.data) and self._running:
            self._begin_to_judge()

    def _begin_to_judge(self) -> None:
        if not self._judges:
            self._judges, self._control_steps, self._return, self._sums = True, 0, 0.0, {}

    def _set_fault(self, parameters: Sequence[Parameter[Any]]) -> str:
        """Apply the parameter `fault`; return why it is refused, empty: it is not."""
        try:
            for parameter in parameters:
                if parameter.name == "fault":
                    self._states.fault = self._fault(str(parameter.value))
        except InputError as error:
            return str(error)
        return ""

    # ---- physics

    def wait(self) -> float:
        """See `process.Running`."""
        until = time.monotonic() + MAX_WAIT if self._lockstep else self._due
        return min(until, self._states.next_late) - time.monotonic()

    def tick(self) -> None:
        """See `process.Running`."""
        now = time.monotonic()
        self._states.flush(now)
        if now >= self._next_poll:
            self._next_poll = now + POLL_PERIOD
            self._check_types()
        if self._lockstep:
            if now - self._last_sent > RESEND_PERIOD:  # the first state, or a lost one
                self._send_state()
            return
        if now - self._due > MAX_LAG:
            lag = now - self._due
            self.get_logger().warning(f"{lag:.2f} s behind the wall clock, which are dropped")
            self._due = now
        while self._due <= now:
            while self._physics_steps >= self._next_state:
                self._send_state()
                self._next_state += self._steps_per_state / self._states.fault.rate
            self._advance(1)
            self._due += self._config.sim.timestep

    def _advance(self, steps: int) -> None:
        """Simulate, and evaluate the task at the end of each control period."""
        if not self._running:
            self._physics_steps += steps
            return
        self._apply_timeout()
        self._plant.advance(steps)
        self._physics_steps += steps
        self._control_steps += steps
        if self._control_steps % self._config.sim.decimation == 0:
            self._evaluate()

    def _motor_time(self) -> float:
        """Return the simulated time of this episode, for the robot's time-out [s].

        A simulation whose process was suspended has not missed a command, nor has one in lockstep,
        which waits for its command.
        """
        return self._physics_steps * self._config.sim.timestep

    def _apply_timeout(self) -> None:
        """Log the robot's own time-out when it begins, and apply its response while it lasts."""
        if self._timeout.expires(self._motor_time()):
            text = f"no command for {self._timeout.timeout:g} s: {self._response.word}"
            if self._over:  # no command is expected
                self.get_logger().info(text)
            else:
                self.get_logger().warning(text)
        if not self._timeout.expired:
            return
        plant = self._plant
        command = self._response.command(plant.joint_position(), plant.data.qvel[plant.dofs])
        if command is not None:
            self._command = command
            plant.command(command)

    def _evaluate(self) -> None:
        assert self._command is not None
        if self._over or self._task is None:
            return
        if not self._judges:
            # of a controller that publishes no phases, from the moment on at which it stands
            if not self.count_publishers(PHASE_TOPIC) and not self._task.terminated():
                self._begin_to_judge()
            return
        steps = self._control_steps // self._config.sim.decimation
        self._set_commands()
        self._return += self._task.step(self._command, self._random)
        for name, value in self._task.metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        fallen = self._task.terminated()
        self._over = fallen or steps == self._episode_steps
        if not self._over:
            return
        result = {"return": self._return, "steps": steps, "success": self._task.is_success()}
        result |= {name: total / steps for name, total in self._sums.items()}
        if self._task.commands:  # a policy that follows nothing is judged by its return alone
            result["fallen"] = fallen
        self._episodes.publish(String(data=json.dumps(result)))

    def _set_commands(self) -> None:
        """Evaluate the task with the commands that the policy has also received."""
        if self._task is None:
            return
        if self._velocity is not None:
            self._task.set_command(VELOCITY, self._velocity.at(self._steady()))
        for name, value in self._signals.commands().items():
            self._task.set_command(name, value)

    def _sensor_messages(self, stamp: float) -> list[Outgoing]:
        if self._task is None or not self._signals.has_sensors:
            return []
        return self._signals.messages(self._task.sensors(), stamp)

    def _steady(self) -> float:
        """Return steady time [s], the clock of policy_node's time-outs."""
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

    def _check_types(self) -> None:
        """Log once which nodes use another message type on this node's topics."""
        for topic, kind, section in self._topics:
            for sentence in type_mismatches(self, topic, kind, section):
                if sentence not in self._logged_mismatches:
                    self._logged_mismatches.add(sentence)
                    self.get_logger().warning(sentence)

    # ---- shutdown

    def close(self) -> None:
        """See `process.Running`: keep running while commands come, at most MAX_REST_TIME."""
        phases = self._config.robot.phases
        longest = MAX_REST_TIME + (0.0 if phases is None else phases.sit_down_time)
        until = time.monotonic() + longest
        if time.monotonic() < self._commanded_at + QUIET_TIME:
            self.get_logger().info(
                f"asked to end: goes on while commands come, at most {longest:g} s"
            )
        executor = self.executor
        if executor is None:
            executor = make_executor()
            executor.add_node(self)
        try:
            polled = self._commanded_at  # a stall of this process counts as QUIET_TIME / 4
            while time.monotonic() < until and polled < self._commanded_at + QUIET_TIME:
                executor.spin_once(timeout_sec=min(MAX_WAIT, max(0.0, self.wait())))
                polled += min(time.monotonic() - polled, QUIET_TIME / 4)
                self.tick()
        except Exception:  # possibly the one that has ended the process
            traceback.print_exc()


def _lying_pose(phases: PhasesConfig, config: RobotTaskConfig, source: str) -> dict[str, float]:
    """Return the pose in which the phases end: joint -> position [rad or m].

    Raises:
        InputError: the phases do not fit the contract.
    """
    policy, robot = config.policy, config.robot
    machine = {joint.name: joint for joint in robot.joints}
    for problem in phase_problems(phases, policy, machine, robot.imu is not None):
        raise InputError(f"{source}: robot {robot.name}: {problem}")
    joints = [policy.joint(name) for name in policy.action_joints]
    pose = pose_of(phases.sit_down.path[-1], joints, machine)
    return dict(zip(policy.action_joints, pose, strict=True))


def _episode_steps(task: TaskConfig | None, given: SimParameters, rate: float) -> int:
    """Return the control steps of an episode; 0: there are no episodes.

    Raises:
        InputError: a length is given, and there are no episodes.
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
    """Run until a signal."""
    if help_asked(sys.argv[1:]):
        print(help_of(__doc__ or "", SimParameters))
        return 0
    return run_node(SimNode)


if __name__ == "__main__":
    sys.exit(main())
