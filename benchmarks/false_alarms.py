"""Count the control loop's alarms on a healthy robot.

    python -m benchmarks.false_alarms [--seconds 600] [--only go2]        pure loop, simulated time
    python -m benchmarks.false_alarms --real-time [--seconds 600]          over DDS, a busy core

Shipped policies run on their nominal robots, whose sensors are exact, noisy, or encoders of 4,096
counts per turn. Every response of hold or above is a false alarm, unless processes on this machine
did not run: in real time such alarms are counted separately, if the node itself reports it, if this
process detected a stall, or if by the kernel's statistics a thread of the robot or of the node
waited for a core as long as a reading may be late (`state.max_age` minus a period). If such times
cover more than a quarter of a run, they explain no alarm. A latched stop is re-armed, so that the
rest of the run is monitored too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dime_robot.runtime.control.control_loop import ControlLoop, GraphView, Mode, Reading
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.faults import SafetyLevel
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.runtime.telemetry.machine import cpu_model
from dime_robot.sim.config.robot_task import RobotTaskConfig, load_robot_task
from dime_robot.sim.config.task import VELOCITY
from dime_robot.sim.plant.plant import make_plant
from dime_robot.sim.tasks.task import Task

ROOT = Path(__file__).parents[1]
SENSORS = ("exact", "noise", "4096 counts")
COUNTS = 4096
GRAPH_PERIOD = 0.05  # [s] between two polls of the graph
WAIT = 0.6  # [s] that the loop monitors its inputs before it is activated
SAMPLE = 0.05  # [s] between two readings of how long threads waited for a core
EXPLAINS = 1.5  # [s]: a fault is reported once a second, a rate is a mean of half of one
# share of the time: above it every alarm could be explained, so no explanation is accepted
MAX_COVERED = 0.25
STALL = 0.03  # [s] between two wake-ups of a process that requests one every 5 ms


@dataclass(frozen=True)
class Scenario:
    """A robot, its policy, and the command that it is given."""

    name: str
    config: str
    policy: str
    velocity: tuple[float, float, float] | None = None  # given to the base [m/s, m/s, rad/s]
    state_rate: float | None = None  # [Hz]; none: the robot's own
    # standard deviations of joint positions [rad or m] and velocities [rad/s or m/s], of the gyro
    # [rad/s] and of the orientation per axis [rad]
    noise: tuple[float, float, float, float] = (0.002, 0.02, 0.0, 0.0)


GO2 = "results/go2/policy.onnx"
GO2_NOISE = (0.006, 0.3, 0.05, 0.02)  # as in its training
SCENARIOS = (
    Scenario("go2 walks", "go2", GO2, (0.5, 0.0, 0.0), noise=GO2_NOISE),
    Scenario("go2 stands", "go2", GO2, (0.0, 0.0, 0.0), noise=GO2_NOISE),
    Scenario("cart-pole, 50 Hz", "cartpole", "results/sim-cartpole.onnx"),
    Scenario("cart-pole, 200 Hz", "cartpole", "results/sim-cartpole.onnx", state_rate=200.0),
)


@dataclass
class Outcome:
    """The result of a run."""

    steps: int = 0
    falls: int = 0
    covered: float = 0.0  # share of the time that would explain an alarm
    alarms: list[str] = field(default_factory=list)  # hold or above, not explained
    explained: list[str] = field(default_factory=list)  # caused by a stall of this machine
    levels: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)


class SimulatedRobot:
    """A Plant connected to the pure loop, both on one simulated clock.

    Args:
        scenario: robot, policy and command.
        sensors: one of SENSORS.
        seed: of initial states, noise and the policy.
    """

    def __init__(self, scenario: Scenario, sensors: str, seed: int = 0) -> None:
        config, model = load_robot_task(scenario.config)
        self._config, self._scenario, self._sensors = config, scenario, sensors
        self._random = np.random.default_rng(seed)
        self._plant = make_plant(config, model)
        self._task = Task(config, self._plant)
        if scenario.velocity is not None:
            self._task.set_command(VELOCITY, np.array(scenario.velocity))
        policy = OnnxPolicy(ROOT / scenario.policy, seed=seed)
        robot = config.robot
        if scenario.state_rate is not None:
            state = robot.state.model_copy(update={"rate": scenario.state_rate})
            robot = robot.model_copy(update={"state": state})
        self.now = 0.0
        by_reading = abs(robot.state.rate / policy.spec.rate - 1) < 0.02
        self._loop = ControlLoop(
            Controller(policy, robot, lambda: self.now),
            by_reading,
            lambda: self.now,
            lambda: self.now,
        )
        self._steps_per_reading = round(1 / (robot.state.rate * config.sim.timestep))
        self.outcome = Outcome()
        self._moving = False

    def run(self, seconds: float) -> Outcome:
        """Simulate; a robot that fell is reset."""
        step, self._count = self._config.sim.timestep, 0
        self._stand()
        until = self.now + seconds
        while self.now < until:
            self._count += 1
            self.now = round(self.now + step, 9)
            if self._moving:
                self._plant.advance(1)
            if self._count % self._steps_per_reading == 0:
                self._read()
            if self._count % round(GRAPH_PERIOD / step) == 0:
                self._take(self._loop.graph(GraphView(listeners=("/robot",))))
            self._take(self._loop.poll())
            if self._loop.mode == Mode.INACTIVE and self._loop.state is not None:
                self._activate()
            if self._count % 20 == 0 and self._fell():
                self.outcome.falls += 1
                self._loop.shut_down()
                while self._loop.mode != Mode.INACTIVE:
                    self.now += step
                    self._loop.poll()
                self._stand()
        return self.outcome

    def _stand(self) -> None:
        self._moving = False
        self._task.start(self._random)
        self._since = self.now

    def _activate(self) -> None:
        if self.now - self._since < WAIT:
            return
        problem = self._loop.activation_problem()
        if problem:
            raise RuntimeError(problem)
        self._loop.activate()
        self._moving = True

    def _fell(self) -> bool:
        if self._scenario.velocity is None:
            return False
        base = self._plant.base()
        return bool(base.height < 0.15 or -base.gravity[2] < 0.5)

    def _read(self) -> None:
        state = self._plant.state()
        position, velocity = state.joint_position, state.joint_velocity
        orientation, gyro = state.orientation, state.angular_velocity
        if self._sensors == "noise":
            a, b, c, turn = self._scenario.noise
            position = position + self._random.normal(0, a, len(position))
            velocity = velocity + self._random.normal(0, b, len(velocity))
            if orientation is not None and gyro is not None:
                orientation = orientation + self._random.normal(0, turn / 2, 4)
                orientation = orientation / np.linalg.norm(orientation)
                gyro = gyro + self._random.normal(0, c, 3)
        elif self._sensors != "exact":
            position = np.round(position * COUNTS / (2 * np.pi)) * 2 * np.pi / COUNTS
        if orientation is not None and gyro is not None and self._loop.needs_imu:
            self._take(self._loop.imu(self.now, orientation, gyro))
        if self._loop.needs_velocity and self._count % 20 == 0:
            self._loop.velocity(np.array(self._scenario.velocity))
        self._take(self._loop.joint_state(Reading(self.now, position, velocity)))

    def _take(self, decision: Decision | None) -> None:
        if decision is None:
            return
        self._loop.record(decision)
        if decision.sent:
            self._plant.command(decision.command)
        outcome = self.outcome
        outcome.steps += 1
        outcome.levels[decision.level.name.lower()] += 1
        outcome.remarks.update(reason.value for reason in decision.faults)
        if decision.level >= SafetyLevel.HOLD:
            why = self._loop.explain(decision.faults)
            outcome.alarms.append(f"{self.now:.3f} s {decision.level.name.lower()}: {why}")


# ---- real time


def real_time(scenario: Scenario, sensors: str, seconds: float, busy: int) -> Outcome:
    """Run policy_node and sim_node over DDS, next to `busy` processes that never sleep."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from geometry_msgs.msg import Twist
    from rclpy.node import Node
    from std_msgs.msg import String
    from std_srvs.srv import Trigger

    from ros_nodes.diagnostics import is_fault
    from ros_nodes.loopback import private_domain
    from ros_nodes.process import make_executor

    private_domain()
    os.environ["OMP_NUM_THREADS"] = "1"
    outcome = Outcome()
    stalls: list[float] = []
    starved: list[float] = []
    with tempfile.TemporaryDirectory(prefix="dime_robot-") as folder:
        config = load_robot_task(scenario.config)[0]
        robot = _robot_file(config, scenario, Path(folder))
        state = config.robot.state
        slack = state.max_age - 1 / (scenario.state_rate or state.rate)  # [s]
        noise = scenario.noise if sensors == "noise" else (0.0, 0.0, 0.0, 0.0)
        sim = {
            "config": scenario.config,
            "episode_seconds": float(seconds + 60),
            "position_noise": noise[0],
            "velocity_noise": noise[1],
            "gyro_noise": noise[2],
            "orientation_noise": noise[3],
            "encoder_counts": COUNTS if sensors == SENSORS[2] else 0,
        }
        if scenario.state_rate is not None:
            sim["state_rate"] = scenario.state_rate
        policy = {
            "policy": ROOT / scenario.policy,
            "robot": robot,
            "autostart": "activate",
            "budget": 5.0,
            "discovery_time": 0.5,
            "recordings": folder,
        }
        loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        for core, process in enumerate(loops, start=1):
            os.sched_setaffinity(process.pid, {core % (os.cpu_count() or 1)})
        processes = [_start("ros_nodes.sim_node", sim), _start("ros_nodes.policy_node", policy)]
        rclpy.init(args=[])
        node, executor = Node("false_alarms"), make_executor()
        executor.add_node(node)
        waits = [CoreWaits(process.pid) for process in processes]
        faults: list[tuple[float, str]] = []
        totals: Counter[str] = Counter()
        missed, stopped = [0], [False]

        def on_episode(message: String) -> None:
            outcome.falls += bool(json.loads(message.data).get("fallen"))

        def on_diagnostics(message: DiagnosticArray) -> None:
            for entry in message.status:
                values = {pair.key: pair.value for pair in entry.values}
                if not entry.name.startswith("/policy_node: "):
                    continue
                missed[0] = int(values.get("missed", missed[0]))
                steps = {
                    key.removeprefix("steps "): int(value)
                    for key, value in values.items()
                    if key.startswith("steps ")
                }
                totals.update(steps)
                # a fault that began and ended between two reports counts too
                passed = any(steps.get(name) for name in ("hold", "damp", "stop"))
                if entry.name.endswith("control") and (passed or is_fault(entry)):
                    why = values.get("why") or values.get("last fault", "")
                    faults.append((time.monotonic(), f"{entry.message}: {why}"))
                    stopped[0] = entry.message.startswith("stop")

        node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 100)
        node.create_subscription(String, "sim_node/episode", on_episode, 10)
        operator = node.create_publisher(Twist, "cmd_vel", 10)
        re_arm = node.create_client(Trigger, "policy_node/reset_estop")
        try:
            until, woken, sent_at = time.monotonic() + seconds + 8, time.monotonic(), 0.0
            sample = woken
            while time.monotonic() < until and all(p.poll() is None for p in processes):
                executor.spin_once(timeout_sec=0.005)
                now = time.monotonic()
                if now - woken > STALL:
                    stalls.append(now)
                woken = now
                if now >= sample:
                    sample = now + SAMPLE
                    if max(wait.longest() for wait in waits) > slack:
                        starved.append(now)
                if stopped[0] and now - faults[-1][0] > 0.5:  # it is at rest
                    stopped[0] = False
                    outcome.remarks["re-armed"] += 1
                    re_arm.call_async(Trigger.Request())
                if scenario.velocity is not None and now - sent_at > 0.1:
                    sent_at, twist = now, Twist()
                    twist.linear.x, twist.linear.y, twist.angular.z = scenario.velocity
                    operator.publish(twist)
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait(20)
            for process in loops:
                process.kill()
                process.wait()
            node.destroy_node()
            rclpy.shutdown()
    moments = sorted((*stalls, *starved))
    covered = _covered(moments) / seconds
    for when, text in faults:
        ours = any(word in text for word in ("self_late", "self_stalled", "overrun"))
        seen = covered <= MAX_COVERED and any(-0.1 < when - at < EXPLAINS for at in moments)
        (outcome.explained if ours or seen else outcome.alarms).append(text)
    for name, count in totals.items():
        (outcome.remarks if name.startswith("with ") else outcome.levels)[name] += count
    outcome.steps = sum(outcome.levels.values())
    outcome.covered = covered
    outcome.remarks["stalls seen"] = len(stalls)
    outcome.remarks["waits for a core seen"] = len(starved)
    outcome.remarks["deadlines missed"] = missed[0]
    return outcome


def _covered(moments: list[float]) -> float:
    """Return the total time that the sorted moments would explain [s]."""
    gaps = [min(after - before, EXPLAINS) for before, after in itertools.pairwise(moments)]
    return sum(gaps) + (EXPLAINS if moments else 0.0)


class CoreWaits:
    """How long threads of a process were ready to run and had no core (Linux)."""

    def __init__(self, pid: int) -> None:
        self._tasks = Path(f"/proc/{pid}/task")
        self._before: dict[str, int] = {}

    def longest(self) -> float:
        """Return the longest wait of any thread since the last call [s]; 0: the process ended."""
        try:
            now = {
                task.name: int((task / "schedstat").read_text().split()[1])
                for task in self._tasks.iterdir()
            }
        except OSError:
            return 0.0
        before, self._before = self._before, now
        return max((now[name] - before.get(name, now[name]) for name in now), default=0) / 1e9


def _start(module: str, parameters: dict[str, object]) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", module, "--ros-args", "--log-level", "error"]
    for name, value in parameters.items():
        words += ["-p", f"{name}:={value}"]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _robot_file(config: RobotTaskConfig, scenario: Scenario, folder: Path) -> Path:
    robot = config.robot.model_dump(mode="json")
    if scenario.state_rate is not None:
        robot["state"]["rate"] = scenario.state_rate
    path = folder / "robot.yaml"
    path.write_text(json.dumps({"robot": robot}))  # JSON is YAML
    return path


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.false_alarms")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--only", default="", help="scenarios with this in their names")
    parser.add_argument("--sensors", default="", help=f"one of {', '.join(SENSORS)}; default: all")
    parser.add_argument("--real-time", action="store_true")
    parser.add_argument("--busy", type=int, default=1, help="processes that never sleep, real time")
    options = parser.parse_args()
    how = f"real time, {options.busy} busy" if options.real_time else "simulated time"
    print(f"{options.seconds:g} s each, {how}, {os.cpu_count()} x {cpu_model()}", flush=True)
    for scenario in SCENARIOS:
        for sensors in SENSORS:
            if options.only not in scenario.name or options.sensors not in ("", sensors):
                continue
            began = time.monotonic()
            if options.real_time:
                outcome = real_time(scenario, sensors, options.seconds, options.busy)
            else:
                outcome = SimulatedRobot(scenario, sensors).run(options.seconds)
            remarks = {k: v for k, v in outcome.remarks.items() if v}
            print(
                f"{scenario.name:18s} {sensors:12s} {outcome.steps:7,} steps"
                f" {len(outcome.alarms)} false alarms, {len(outcome.explained)} explained,"
                f" {outcome.covered:.1%} covered, {outcome.falls} falls  {dict(outcome.levels)}"
                f" {remarks} ({time.monotonic() - began:.0f} s)",
                flush=True,
            )
            for alarm in [*outcome.alarms[:5], *outcome.explained[:3]]:
                print(f"    {alarm}", flush=True)


if __name__ == "__main__":
    main()
