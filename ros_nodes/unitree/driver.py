"""unitree_driver: a Go2 on its own wire. `ros2 run dime_robot unitree_driver`.

It makes a Go2 look like a ros2_control robot to policy_node: it publishes joint_states, imu and
the wireless remote's joy, takes positions, and writes LowCmd 500 times a second with the gains of
the policy's contract. It has a watchdog of its own: where commands or readings stay out, the last
target is held, then the motors are damped.

Nothing is sent to the motors before `~/release_mode` is called; see docs/go2.md for the order.

services (std_srvs/Trigger):
  ~/check_mode       which of the robot's own controllers has the motors
  ~/release_mode     lie down, release the motors, verify; from then on LowCmd is sent
  ~/restore_mode     send nothing more and start the robot's own controller again
  ~/reset            after a fault: commands may be followed again

Two processes: this one is alone on the robot's domain; its child is on the ROS domain. Fast DDS
reads one network profile for a process, and the robot's must not bind the rest of the graph.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(ros=("rclpy",))

import gc
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from dime_robot.runtime.contract.robot_config import RobotConfig, load_robot, require_compatible
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.policy_file import load_policy_file
from dime_robot.runtime.unitree.bring_up import BringUp, Outcome
from dime_robot.runtime.unitree.driver_loop import (
    MAX_END_DAMPING,
    DriverLoop,
    DriverSettings,
    MotorTargets,
    Sending,
)
from dime_robot.runtime.unitree.low_cmd_writer import LowCmdWriter
from dime_robot.runtime.unitree.low_level import MOTORS
from dime_robot.runtime.unitree.motors import Motors, motors_of
from dime_robot.runtime.unitree.remote import Remote
from ros_nodes.parameters import UnitreeParameters, existing_path, help_asked, help_of
from ros_nodes.process import StopSignal, realtime_profile
from ros_nodes.unitree.dds_profile import address_of, require_safe_profiles, use_robot_profile
from ros_nodes.unitree.dry_run import DryRunTable
from ros_nodes.unitree.link import (
    Call,
    Command,
    Done,
    Link,
    Log,
    Sample,
    Started,
    Status,
    Stick,
    Topics,
)
from ros_nodes.unitree.robot_side import RobotSide

N = len(MOTORS)
PERIOD = 0.002  # [s] between two LowCmd
MAX_LAG = 0.02  # [s] that the loop may be late before it skips what it missed
REPORT_PERIOD = 0.2  # [s] between two reports to the ROS side
STICK_PERIOD = 0.02  # [s] between two messages of the remote
FIND_TIME = 3.0  # [s] for the robot's services to be found; then they are asked all the same
START_TIMEOUT = 30.0  # [s] for the ROS side to start
SUSPENSION = 0.05  # [s] that counts as one
CLOCK_STEP = 0.1  # [s] by which the system's clock moved against the steady one
MAX_ERRORS = 500  # exceptions in a row, a second of them
SERVE_MARGIN = 2.0  # [s] beyond the time to sit down
ID_BITS = 40  # of the first request's random id


class Rate:
    """Counts events and the gaps between them, since the last report."""

    def __init__(self) -> None:
        self.total = 0
        self._count, self._largest = 0, 0.0
        self._last: float | None = None
        self._since = time.monotonic()

    def add(self, now: float) -> None:
        """Count one.

        Args:
            now: steady time [s].
        """
        if self._last is not None:
            self._largest = max(self._largest, now - self._last)
        self._last, self._count, self.total = now, self._count + 1, self.total + 1

    def take(self, now: float) -> tuple[float, float]:
        """Return rate [Hz] and largest gap [s] since the last call.

        Args:
            now: steady time [s].
        """
        rate, largest = self._count / max(now - self._since, 1e-3), self._largest
        self._count, self._largest, self._since = 0, 0.0, now
        return rate, largest


class UnitreeDriver:
    """The loop of the process on the robot's domain.

    Args:
        given: its parameters.
        motors: gains and limits.
        robot: the machine.
        link: to the ROS side.
        stop: requests to end.
    """

    def __init__(
        self,
        given: UnitreeParameters,
        motors: Motors,
        robot: RobotConfig,
        link: Link,
        stop: StopSignal,
    ) -> None:
        self._given, self._robot, self._link, self._stop = given, robot, link, stop
        self._side = RobotSide(
            given.robot_domain,
            given.state_crc == "check",
            given.dry_run,
            given.allow_other_middleware,
        )
        phases = robot.phases
        serve = phases.sit_down_time if phases is not None else robot.safety.rest_timeout
        self._loop = DriverLoop(
            motors,
            DriverSettings(
                timeout=robot.command.timeout,
                tilt_limit=math.radians(robot.safety.tilt_limit or 60.0),
                hold=given.hold,
                damping=given.damping,
                gain_ramp=given.gain_ramp,
                max_temperature=given.max_temperature,
                serve_time=serve + SERVE_MARGIN,
            ),
        )
        self._bring_up: BringUp | None = None
        if not given.dry_run and given.mode_service != "none":
            self._side.open_services()
            self._bring_up = BringUp(secrets.randbits(ID_BITS))
        self._request_from = time.monotonic() + FIND_TIME
        self._remote = Remote(given.remote_frozen_after)
        self._table = DryRunTable(motors, robot) if given.dry_run else None
        self._writer = LowCmdWriter()
        damped = MotorTargets()
        damped.damping[:] = given.damping
        self._damping_message = self._writer.write(damped)
        self._sent, self._read = Rate(), Rate()
        self._call: Call | None = None  # the operator's call that is being worked on
        self._asked_stops, self._orphaned = 0, False
        self._reported_at = self._sampled_due = self._stick_at = -math.inf
        self._stick: tuple[list[float], list[int]] | None = None
        self._clock_offset: float | None = None  # of the system's clock to the steady one [s]
        self._suspended: float | None = None  # for how long this computer was, since its start [s]
        self._errors = 0
        link.send(
            Topics(
                state=robot.state.topic,
                imu=robot.imu.topic if robot.imu is not None else "imu",
                joystick=given.joystick,
                command=robot.command.topic,
                command_kind=robot.command.kind,
            )
        )

    def run(self) -> int:
        """Run until it is stopped; return the exit code."""
        due = time.monotonic()
        while True:
            now = time.monotonic()
            try:
                if self._ended(now):
                    return 1 if self._link.closed else 0
                self._cycle(now)
                self._errors = 0
            except Exception as error:
                self._errors += 1
                if self._errors == 1:
                    traceback.print_exc()
                self._loop.fail(f"{type(error).__name__}: {error}"[:200], now)
                if self._errors > MAX_ERRORS or not self._send_after_error(now):
                    self._damp_blindly()
                    return 1
            due += PERIOD
            if due < time.monotonic() - MAX_LAG:
                due = time.monotonic()
            time.sleep(max(0.0, due - time.monotonic()))

    def _send_after_error(self, now: float) -> bool:
        """Send what the loop says after an exception; return whether that went well."""
        try:
            self._send(now)
        except Exception:
            traceback.print_exc()
            return False
        return True

    def _send(self, now: float) -> None:
        """Send what the loop says."""
        targets = None if self._table is not None else self._loop.step(now)
        if targets is not None:
            self._side.send(self._writer.write(targets))
            self._sent.add(now)

    def _ended(self, now: float) -> bool:
        if self._link.closed and not self._orphaned:
            self._orphaned = True  # the ROS side has ended: nobody can command or ask any more
            if not self._asked_stops:
                self._loop.request_stop(now)
        requests = self._stop.requests
        while self._asked_stops < requests:
            self._asked_stops += 1
            self._loop.request_stop(now)
        if self._table is not None:
            return bool(requests) or self._link.closed
        return self._loop.finished(now)

    def _cycle(self, now: float) -> None:
        self._check_clock()
        self._read_states(now)
        for message in self._link.receive():
            if isinstance(message, Command):
                self._loop.take_command(message.names, message.positions, min(message.at, now))
            elif isinstance(message, Call):
                self._answer(message, now)
        for writer in self._side.other_writers():
            self._loop.take_other_writer(writer, now)
        if self._bring_up is not None:
            self._serve_bring_up(self._bring_up, now)
        self._send(now)
        self._report(now)

    # ---- readings

    def _read_states(self, now: float) -> None:
        newest = None
        for record in self._side.states():
            if isinstance(record, str):
                self._loop.watch.refuse(record)
                continue
            self._read.add(now)
            if self._loop.watch.take(record, now):
                newest = record
        if newest is None:
            return
        period = 1.0 / self._robot.state.rate
        if now >= self._sampled_due - 0.5 * period:
            self._sampled_due = max(self._sampled_due + period, now - period)
            self._link.send(_sample(newest))
        self._read_remote(newest, now)

    def _read_remote(self, record: Any, now: float) -> None:
        stick = self._remote.read(record["wireless_remote"].tobytes(), now)
        if stick is None or not self._given.joystick:
            self._stick = None
            return
        if stick != self._stick or now - self._stick_at >= STICK_PERIOD:
            self._stick, self._stick_at = stick, now
            self._link.send(Stick(time.time(), tuple(stick[0]), tuple(stick[1])))

    def _check_clock(self) -> None:
        """Notice a step of the system's clock, which stamps the readings, and a suspension."""
        suspended = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        if self._suspended is not None and suspended - self._suspended > SUSPENSION:
            self._loop.take_suspension(suspended - self._suspended)
        self._suspended = suspended
        offset = time.time() - time.monotonic()
        if self._clock_offset is not None and abs(offset - self._clock_offset) > CLOCK_STEP:
            step = offset - self._clock_offset
            self._log("warning", f"the system's clock moved by {step:+.2f} s: stop its correction")
        self._clock_offset = offset

    # ---- the operator

    def _answer(self, call: Call, now: float) -> None:
        problem = ""
        if self._given.dry_run:
            problem = "a dry run asks and sends nothing"
        elif self._call is not None:
            problem = f"expected one request at a time, {self._call.what} is not done"
        elif call.what == "reset":
            problem = self._loop.reset(now)
        elif call.what == "check_mode":
            self._done(call, *self._describe_mode())
            return
        else:
            self._begin(call, now)
            return
        self._done(call, not problem, problem or "done")

    def _begin(self, call: Call, now: float) -> None:
        """Begin to take the motors or to give them back."""
        bring_up, problem = self._bring_up, ""
        if call.what == "release_mode":
            if self._loop.sending is not Sending.NOTHING:
                self._done(call, True, "the motors are this driver's already")
                return
            if bring_up is None:
                self._loop.take_mode("", now)
                self._permit(call, Outcome(True, "on the operator's word nobody has them"), now)
                return
            bring_up.begin_release(now)
        else:
            mode = self._given.mode or (bring_up.released_mode if bring_up else "")
            if bring_up is not None and bring_up.mode:
                problem = f"expected free motors, the robot's own controller {bring_up.mode} runs"
            elif bring_up is not None and not mode:
                problem = "no controller was released here: -p mode:=NAME says which to start"
            problem = problem or self._loop.give_back()
            if problem or bring_up is None:
                self._done(call, not problem, problem or "nothing is sent any more")
                return
            bring_up.begin_restore(mode, now)
        self._call = call

    def _serve_bring_up(self, bring_up: BringUp, now: float) -> None:
        for response in self._side.responses():
            following = bring_up.take(response, now)
            if following is not None:
                self._side.send_request(following)
            self._loop.take_mode(bring_up.mode, now)
        if now < self._request_from:  # a request that is sent before has no answer
            if not self._side.finds_services():
                return
            self._request_from = now
        request = bring_up.poll(now, self._loop.lies(now))
        if request is not None:
            self._side.send_request(request)
        outcome = bring_up.take_outcome()
        if outcome is not None and self._call is not None:
            call, self._call = self._call, None
            if call.what == "release_mode" and outcome.success:
                self._permit(call, outcome, now)
            elif call.what == "restore_mode" and not outcome.success:
                text = "nothing is sent and nobody has the motors: ~/release_mode damps them again"
                self._done(call, False, f"{outcome.text}; {text}")
            else:
                self._done(call, outcome.success, outcome.text)

    def _permit(self, call: Call, outcome: Outcome, now: float) -> None:
        problem = self._loop.permit(now)
        self._done(call, not problem, problem or f"{outcome.text}; LowCmd is sent, damping")

    def _done(self, call: Call, success: bool, text: str) -> None:
        self._link.send(Done(call.id, success, text))
        self._log("info" if success else "warning", f"{call.what}: {text}")

    def _describe_mode(self) -> tuple[bool, str]:
        if self._bring_up is None:
            return True, "not asked: mode_service is none"
        if self._bring_up.mode is None:
            return False, "motion_switcher has not answered: is the robot on this interface?"
        mode = self._bring_up.mode
        return True, f"the robot's own controller: {mode or 'none, the motors are free'}"

    # ---- reports

    def _log(self, level: str, text: str) -> None:
        self._link.send(Log(level, text))

    def _report(self, now: float) -> None:
        loop, watch = self._loop, self._loop.watch
        for level, text in loop.events:
            self._log(level, text)
        takes = self._table is None and loop.accepts_commands(now)
        at_once = bool(loop.events)
        loop.events.clear()
        if now - self._reported_at < REPORT_PERIOD and not at_once:
            return
        self._reported_at = now
        (sent, gap), (read, read_gap) = self._sent.take(now), self._read.take(now)
        values = {
            "sending": loop.sending.value,
            "LowCmd [Hz]": f"{sent:.0f}",
            "LowCmd largest gap [ms]": f"{1e3 * gap:.1f}",
            "LowCmd sent": str(self._sent.total),
            "LowState [Hz]": f"{read:.0f}",
            "LowState largest gap [ms]": f"{1e3 * read_gap:.1f}",
            "LowState refused": str(watch.refused),
            "LowState last refusal": watch.refusal,
            "commands": str(loop.commands),
            "commands refused": str(loop.refused_commands),
            "commands bounded": str(loop.clipped_commands),
            "remote": "silent" if self._stick is None else "connected",
            "own controller": self._describe_mode()[1],
            "readings dropped": str(self._link.dropped),
        }
        if watch.record is not None:
            values["hottest motor [deg C]"] = str(watch.record["motor_state"]["temperature"].max())
            values["tilt [deg]"] = f"{math.degrees(watch.tilt):.0f}"
        usable = loop.problem is None and watch.problem(now) is None
        if self._table is not None:
            self._table.show(watch, now, read)
        self._link.send(Status(0 if usable else 2, loop.describe(now), values, takes))

    def _damp_blindly(self) -> None:
        """Send damping without any judgement: this program does not work any more."""
        if self._loop.sending is Sending.NOTHING or self._given.dry_run:
            return
        end = time.monotonic() + MAX_END_DAMPING
        while time.monotonic() < end:
            with suppress(Exception):  # a later one may go through
                self._side.send(self._damping_message)
            time.sleep(PERIOD)

    def close(self) -> None:
        """Leave the robot's domain."""
        self._side.close()


def _sample(record: Any) -> Sample:
    motors, imu = record["motor_state"][:N], record["imu_state"]
    return Sample(
        stamp=time.time(),
        position=tuple(motors["q"].tolist()),
        velocity=tuple(motors["dq"].tolist()),
        effort=tuple(motors["tau_est"].tolist()),
        quaternion=tuple(imu["quaternion"].tolist()),
        gyroscope=tuple(imu["gyroscope"].tolist()),
        accelerometer=tuple(imu["accelerometer"].tolist()),
    )


class RosSideProcess:
    """The child on the ROS domain.

    Args:
        arguments: ROS arguments of the driver.
    """

    def __init__(self, arguments: list[str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "ros_nodes.unitree.ros_side", str(theirs.fileno())]
        self.process = subprocess.Popen(
            [*command, *arguments],
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # a terminal's Ctrl-C is the driver's to answer
        )
        theirs.close()
        self.link = Link(ours)

    def started(self, stop: StopSignal) -> Started | None:
        """Wait until its node exists; None: it has ended, or this process shall end."""
        until = time.monotonic() + START_TIMEOUT
        while time.monotonic() < until and not stop.requests:
            for message in self.link.receive():
                if isinstance(message, Started):
                    return message
            if self.link.closed:
                return None
            time.sleep(0.01)
        return None

    def end(self) -> int:
        """End it; return its exit code."""
        self.link.close()
        try:
            return self.process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def _prepare(started: Started) -> tuple[UnitreeParameters, Motors, RobotConfig]:
    """Check all that can be checked before anything touches the robot's domain.

    Raises:
        InputError: something does not fit.
    """
    given: UnitreeParameters = started.parameters
    _, file = load_policy_file(existing_path(given.policy, "policy"))
    robot = load_robot(Path(given.robot).expanduser() if given.robot else None, file.spec)
    require_compatible(file.spec, robot)
    return given, motors_of(file.spec, robot), robot


def _only_driver(given: UnitreeParameters) -> socket.socket:
    """Refuse a second driver of the same robot on this computer.

    Returns:
        What the next one is refused by, until it is closed or this process has ended.

    Raises:
        InputError: there is one already.
    """
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    address, dry = address_of(given.interface), ".dry_run" if given.dry_run else ""
    try:
        lock.bind(f"\0dime_robot.unitree_driver.{address}.{given.robot_domain}{dry}")
    except OSError:
        lock.close()
        raise InputError(
            f"expected no other unitree_driver of domain {given.robot_domain} on {address}, one"
            " runs already: end it first"
        ) from None
    return lock


def run(arguments: list[str]) -> int:
    """Run both processes; return the exit code.

    Args:
        arguments: ROS arguments.
    """
    stop = StopSignal()
    stop.max_requests, stop.then = 2, signal.SIG_IGN  # more would cut off the damping
    try:
        require_safe_profiles(os.environ, Path.cwd())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    ros_side = RosSideProcess(arguments)
    driver = profile = lock = None
    try:
        started = ros_side.started(stop)
        if started is None:
            if stop.requests:
                return 0
            return ros_side.end() or 1  # it has printed why
        given, motors, robot = _prepare(started)
        lock = _only_driver(given)
        profile = use_robot_profile(given.interface)
        driver = UnitreeDriver(given, motors, robot, ros_side.link, stop)
        profile.remove()  # it has been read; a killed process would leave it
        if given.realtime:
            granted, refused = realtime_profile(given.priority, given.cpus)
            for text in [f"real-time on the robot's domain: {granted}", *refused]:
                ros_side.link.send(Log("info", text))
        gc.collect()
        gc.freeze()  # what exists by now is not looked at again
        return driver.run()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:
        if driver is not None:
            driver.close()
        if profile is not None:
            profile.remove()
        if lock is not None:
            lock.close()
        ros_side.end()


def main() -> int:
    """Run until a signal."""
    if help_asked(sys.argv[1:]):
        print(help_of(__doc__ or "", UnitreeParameters))
        return 0
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
