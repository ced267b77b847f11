"""Stand a robot up from lying, let its policy walk, and sit it down, many times.

    python -m benchmarks.phases [--starts N] [--seed S]

The Go2 of `sim:go2` with its shipped policy, through the whole control loop. A start is drawn so:
the base tilted by up to 30 degrees in any direction, each leg joint anywhere within its stops,
laid on the ground without penetration, settled under damping; drawn again while it then leans by
more than 30 degrees. Every start is a row; exit code 1 if fewer than 98 of 100 stand.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dime_robot.results.tables import text_table
from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.control.control_loop import ControlLoop, GraphView, Mode, Reading
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.phases import Phase
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.io import option_types
from dime_robot.runtime.io.command import run_command
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy, Policy
from dime_robot.sim.config.robot_task import RobotTaskConfig, load_robot_task
from dime_robot.sim.plant.lying import Damping, lie
from dime_robot.sim.plant.plant import Plant, make_plant
from ros_nodes.sim_timeout import TimeoutResponse

POLICY = Path("results/go2/policy.onnx")
MAX_TILT = 30.0  # [degrees]
STILL = 0.05  # [rad/s, m/s]
MIN_SETTLING, MAX_SETTLING = 1.0, 6.0  # [s]
ENCODER_NOISE = 1e-5  # [rad]: a reading never stays equal to the last bit
WALK = np.array([0.5, 0.0, 0.0])  # [m/s, m/s, rad/s]
WALKING, MIN_SPEED = 4.0, 0.3  # for so long [s], and at least so fast in its second half [m/s]
STANDING = 0.98  # least share of starts
HEADER = ["start", "leans", "stood up", "walked", "lies", "effort", "speed", "end"]


def tilt_of(plant: Plant) -> float:
    """Return the tilt of the base [degrees]."""
    return math.degrees(math.acos(float(np.clip(-plant.base().gravity[2], -1.0, 1.0))))


class SimulatedRobot:
    """A plant and its control loop on one simulated clock.

    Args:
        config: of the robot.
        model: its MJCF file.
        policies: one, or several by name.
        seed: of the encoders' noise.
    """

    def __init__(
        self,
        config: RobotTaskConfig,
        model: Path,
        policies: Policy | dict[str, Policy],
        seed: int = 0,
    ) -> None:
        self.config, self.plant, self.time = config, make_plant(config, model), 0.0
        state = config.robot.state.model_copy(update={"rate": config.policy.rate})
        self.robot = config.robot.model_copy(update={"state": state})
        self.policies, self.decisions = policies, list[tuple[float, Decision]]()
        self.velocity: FloatArray = np.zeros(3)
        self._noise = np.random.default_rng(seed)
        spec, robot = config.policy, config.robot
        machine = [robot.joint(name) for name in spec.action_joints]
        self.effort_limits = np.array([joint.effort_limit for joint in machine], dtype=float)
        self.speed_limits = np.array([joint.velocity_limit for joint in machine])
        # the command without stiffness, as the simulated robot's own time-out gives it
        self.damping: Damping = TimeoutResponse(config.policy, config.robot, "damp").command
        self.begin()

    def begin(self) -> None:
        """Make the control loop anew."""

        def clock() -> float:
            return self.time

        self.controller = Controller(self.policies, self.robot, clock)
        self.loop = ControlLoop(self.controller, True, clock, clock, simulated=True)
        self.loop.graph(GraphView(listeners=("/robot",)))
        self.decisions = []

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Simulate, with a reading and a command at each control period.

        Args:
            seconds: of simulated time.
            until: ends it earlier.
        """
        plant, loop, drive = self.plant, self.loop, self.plant.drive
        assert drive is not None
        dofs = plant.dofs
        self.effort, self.speed = np.zeros(len(dofs)), np.zeros(len(dofs))
        end = self.time + seconds - 1e-9
        while self.time < end and not until():
            state, noise = plant.state(), self._noise.normal(0, ENCODER_NOISE, len(dofs))
            assert state.orientation is not None and state.angular_velocity is not None
            if loop.needs_velocity:
                loop.velocity(self.velocity)
            loop.imu(self.time, state.orientation, state.angular_velocity)
            position = state.joint_position + noise
            decision = loop.joint_state(Reading(self.time, position, state.joint_velocity))
            decision = loop.poll() or decision
            if decision is not None:
                loop.record(decision)
                self.decisions.append((self.time, decision))
            drive.reset()
            if decision is not None and decision.sent:
                plant.command(decision.command)
            elif loop.mode == Mode.INACTIVE:
                self.relax()
            plant.advance(plant.decimation)
            self.effort = np.maximum(self.effort, drive.peak / self.effort_limits)
            self.speed = np.maximum(self.speed, np.abs(plant.data.qvel[dofs]) / self.speed_limits)
            self.time += self.config.policy.period

    def relax(self) -> None:
        """Command no more than damping."""
        command = self.damping(self.plant.joint_position(), self.plant.data.qvel[self.plant.dofs])
        assert command is not None
        self.plant.command(command)

    def activate(self) -> str:
        """Watch the readings, then activate; return why that is refused, empty: it is not."""
        self.run(0.6)
        problem = self.loop.activation_problem()
        if not problem:
            self.loop.activate()
        return problem

    def lay_down(self, rng: np.random.Generator) -> None:
        """Draw a start as the module's docstring says, and put the robot there."""
        plant, spec = self.plant, self.config.policy
        names = spec.action_joints
        stops = np.array([self.config.robot.joint(name).position_limits for name in names])
        while True:
            pose = dict(zip(names, rng.uniform(stops[:, 0], stops[:, 1]).tolist(), strict=True))
            half, to = math.radians(rng.uniform(0, MAX_TILT)) / 2, rng.uniform(0, 2 * math.pi)
            axis = math.sin(half) * np.array([math.cos(to), math.sin(to), 0.0])
            orientation = np.array([math.cos(half), *axis])
            lie(plant, self.damping, pose, orientation, 0.0)
            if (plant.data.contact.dist[: plant.data.ncon] < 0).any():
                continue
            begun = plant.data.time
            while plant.data.time < begun + MAX_SETTLING:
                self.relax()
                plant.advance(1)
                still = np.abs(plant.data.qvel).max() < STILL
                if still and plant.data.time > begun + MIN_SETTLING:
                    break
            if tilt_of(plant) <= MAX_TILT:
                return


@dataclass
class Outcome:
    """What came of one start."""

    leans: float  # [degrees]
    stood: bool = False
    walked: bool = False
    lies: bool = False
    effort: float = 0.0  # largest while it stood up, share of the limit
    speed: float = 0.0  # the same
    end: str = ""


def attempt(robot: SimulatedRobot, rng: np.random.Generator) -> Outcome:
    """Draw a start, stand up, walk, sit down."""
    robot.begin()
    robot.lay_down(rng)
    robot.velocity = np.zeros(3)
    found = Outcome(tilt_of(robot.plant))
    loop, plant = robot.loop, robot.plant
    if problem := robot.activate():
        found.end = problem
        return found
    robot.run(15.0, lambda: loop.phase == Phase.POLICY or loop.latched)
    found.effort, found.speed = float(robot.effort.max()), float(robot.speed.max())
    found.stood = loop.phase == Phase.POLICY
    if not found.stood:
        found.end = loop.take_failure() or loop.explain(robot.controller.safety.cause)
        return found
    robot.velocity = WALK
    robot.run(WALKING / 2)
    before = plant.data.qpos[:2].copy()
    robot.run(WALKING / 2)
    speed = float(np.linalg.norm(plant.data.qpos[:2] - before)) / (WALKING / 2)
    found.walked = not loop.latched and speed > MIN_SPEED
    loop.shut_down()
    robot.run(20.0, lambda: loop.mode == Mode.INACTIVE)
    robot.run(1.0)
    reached = loop.rest_reached
    still = bool(np.abs(plant.data.qvel).max() < 2 * STILL)
    found.lies = loop.phase == Phase.PASSIVE and still and tilt_of(plant) < MAX_TILT
    found.end = "" if reached is None else reached.text
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = Parser("python -m benchmarks.phases", "Stand up, walk and sit down, many times.")
    add = parser.add_argument
    add("--starts", type=option_types.int_in(1, 10_000), default=100, help="number of starts")
    add("--seed", type=option_types.int_in(0, 2**31), default=0, help="of the starts")
    options: argparse.Namespace = parser.parse_args(argv)
    config, model = load_robot_task("go2")
    robot = SimulatedRobot(config, model, OnnxPolicy(POLICY, noise="zero"))
    found = [
        attempt(robot, np.random.default_rng([options.seed, k])) for k in range(options.starts)
    ]
    rows = [
        [
            str(k),
            f"{each.leans:.0f}",
            *("yes" if value else "no" for value in (each.stood, each.walked, each.lies)),
            f"{each.effort:.2f}",
            f"{each.speed:.2f}",
            each.end,
        ]
        for k, each in enumerate(found)
    ]
    print(text_table(HEADER, rows))
    stood = [each for each in found if each.stood]
    print(
        f"{len(stood)} of {len(found)} stood up, {sum(each.walked for each in stood)} walked,"
        f" {sum(each.lies for each in stood)} lie at rest; while standing up at most"
        f" {max(each.effort for each in found):.2f} of an effort limit and"
        f" {max(each.speed for each in found):.2f} of a speed limit"
    )
    return 0 if len(stood) >= STANDING * len(found) else 1


if __name__ == "__main__":
    run_command(main)
