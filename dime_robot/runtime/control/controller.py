"""Controller: turns a robot's state into a safe command. One `step` per control period."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from dime_robot.runtime.contract.policy_spec import Float32Array, FloatArray
from dime_robot.runtime.contract.robot_config import RobotConfig, require_compatible
from dime_robot.runtime.control.faults import UNUSABLE, Fault, SafetyLevel
from dime_robot.runtime.control.flight_recorder import FlightRecorder
from dime_robot.runtime.control.observation import ActionDecoder, ObservationEncoder
from dime_robot.runtime.control.rest import RestReached
from dime_robot.runtime.control.safety_filter import Decision, SafetyFilter
from dime_robot.runtime.control.state import JointCommand, RobotState
from dime_robot.runtime.policy.onnx_policy import Policy


class Controller:
    """Encode, evaluate the policy, decode, filter; once the command is sent, record.

    Args:
        policy: evaluated at each step.
        robot: the machine.
        clock: steady time [s], to measure how long a step takes.

    Raises:
        InputError: the policy does not fit this robot.
    """

    def __init__(
        self, policy: Policy, robot: RobotConfig, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        require_compatible(policy.spec, robot)
        self.policy, self.robot = policy, robot
        self.safety = SafetyFilter(policy.spec, robot)
        self.recorder = FlightRecorder(policy, robot)
        self._clock = clock
        self.inference = 0.0  # duration of the policy's last call [s]
        self._encoder, self._decoder = ObservationEncoder(policy.spec), ActionDecoder(policy.spec)
        self._action: FloatArray = np.zeros(policy.spec.n_act, dtype=np.float32)
        self._late_streak, self._was_late, self._gap = 0, False, False
        self._to_record: tuple[float, RobotState | None, Float32Array | None]

    def start(self, now: float, state: RobotState, seed: int | None = None) -> None:
        """Permit commands: begin an episode at `state`, which must have no faults.

        Args:
            now: steady time [s].
            state: where the episode begins.
            seed: of the noise; none: its generator continues.
        """
        self.policy.reset(seed)
        self._reset_history()
        self._late_streak, self._was_late = 0, False
        self.safety.arm(now, state)

    def step(
        self,
        now: float,
        state: RobotState | None,
        faults: Sequence[Fault] = (),
        age: float = 0.0,
        simulated: bool = False,
    ) -> Decision:
        """Compute the command of this period.

        Args:
            now: steady time [s].
            state: the newest reading; None: there is none to use.
            faults: those that the caller found (staleness, conflicts).
            age: time since the reading arrived [s].
            simulated: `now` is a simulation's time, which does not advance during this call.
        """
        began = self._clock()
        self.inference = 0.0
        found, observation, wanted = list(faults), None, None
        if state is not None:
            found += self.safety.faults_in(state)
        if self._was_late and Fault.OBSERVATION_STALE in found:
            found.append(Fault.OVERRUN)  # it became stale during the last inference
        self._was_late = False
        if state is not None and not self.safety.latched and UNUSABLE.isdisjoint(found):
            if self.safety.level == SafetyLevel.DAMP:
                self._reset_history()
            elif self._gap:  # a history across a gap would show a motion that did not happen
                self._encoder.reset()
            observation = self._encoder.encode(state, self._decoder.last_action)
            wanted = self._infer(observation)
            if self._late_streak >= self.robot.safety.consecutive_misses:
                found.append(Fault.OVERRUN)
        # the operating system may have suspended this process anywhere in between
        spent = 0.0 if simulated else self._clock() - began
        if wanted is not None and age + spent > self.robot.state.max_age:
            found += [Fault.OVERRUN, Fault.OBSERVATION_STALE]
            wanted = None  # a command for a state that is too old
        if spent > self.robot.command.timeout:
            found.append(Fault.SELF_STALLED)
        self._gap = observation is None
        self._to_record = (now, state, observation)
        return self.safety.step(now + spent, wanted, state, found)

    def shut_down(
        self, now: float, state: RobotState | None, faults: Sequence[Fault] = ()
    ) -> tuple[Decision, RestReached | None]:
        """Take one step of the shutdown; see `SafetyFilter.shut_down`.

        Args:
            now: steady time [s].
            state: the reading of this step.
            faults: of this step.
        """
        self.inference = 0.0
        self._to_record = (now, state, None)
        return self.safety.shut_down(now, state, faults)

    def record(self, decision: Decision) -> None:
        """Record the step of this decision. Call it after publishing, which should not wait."""
        now, state, observation = self._to_record
        self.recorder.add(now, state, observation, self._action, decision)

    def _infer(self, observation: Float32Array) -> JointCommand:
        began = self._clock()
        action = self.policy.act(observation)
        self.inference = self._clock() - began
        self._was_late = self.inference > self.policy.spec.period
        self._late_streak = self._late_streak + 1 if self._was_late else 0
        self._action[:] = action  # the policy reuses its array
        return self._decoder.decode(action)

    def _reset_history(self) -> None:
        self._encoder.reset()
        self._decoder.reset()
