"""Controller: turns a robot's state into a safe command. One `step` per control period."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dime_robot.runtime.contract.policy_spec import Float32Array, FloatArray, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.control.faults import BLINDING, Fault, SafetyLevel, serious
from dime_robot.runtime.control.flight_recorder import FlightRecorder
from dime_robot.runtime.control.phases import Goal, PhaseMachine
from dime_robot.runtime.control.policy_set import LoadedPolicy, PolicySet
from dime_robot.runtime.control.rest import RestReached
from dime_robot.runtime.control.safety_filter import Decision, SafetyFilter
from dime_robot.runtime.control.state import JointCommand, RobotState
from dime_robot.runtime.policy.onnx_policy import Policy


class Controller:
    """Encode, evaluate the policy, decode, filter; once the command is sent, record.

    Args:
        policy: evaluated at each step; several by name: one acts, and `select` chooses another.
        robot: the machine.
        clock: steady time [s], to measure how long a step takes.

    Raises:
        InputError: a policy does not fit this robot, or one cannot be switched to.
    """

    def __init__(
        self,
        policy: Policy | Mapping[str, Policy],
        robot: RobotConfig,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._set = PolicySet(policy, robot)
        self.spec: PolicySpec = self._set.spec
        """Contract of the robot with all policies; with one it is that policy's."""
        self.robot = robot
        self.safety = SafetyFilter(self.spec, robot)
        self._needs = {
            name: self.safety.needs_of(each.spec) for name, each in self._set.loaded.items()
        }
        self._needs_without = self.safety.needs_of(None)
        self.phases = PhaseMachine(self.spec, robot, self.safety.limits, self._policy_problem)
        self.input_problem: Callable[[PolicySpec], str] = lambda _: ""
        """Why the streams of a policy's inputs do not suffice, a sentence; set by the caller."""
        self.recorder = FlightRecorder(policy, robot)
        self._clock = clock
        self.inference = 0.0  # duration of the policy's last call [s]
        self._action: FloatArray = np.zeros(self.spec.n_act, dtype=np.float32)
        self._late_streak, self._was_late, self._gap = 0, False, False
        # the last command, if the policy's within the limits; else a target begins where the joints
        # are: after an activation, a gap, a hold, a damped step
        self._sent: FloatArray | None = None
        self._stepped_at: float | None = None  # steady time of the last step [s]
        self._damped = False  # whether a response has moved the robot since the phases went on
        self._selected: LoadedPolicy | None = None  # acts from the next step on
        # of a switch: what the last command before it differed from the first one after it by
        self._offset: FloatArray = np.zeros(self.spec.n_act)
        self._offset_left = 0.0  # [s] until it has decayed
        self._require()
        self._to_record: tuple[float, RobotState | None, Float32Array | None]

    @property
    def policy(self) -> Policy:
        """The policy that acts."""
        return self._set.acting.policy

    @property
    def policies(self) -> Mapping[str, Policy]:
        """All policies by name."""
        return self._set.policies

    @property
    def acting(self) -> str:
        """Name of the policy that acts."""
        return self._set.acting.name

    @property
    def selected(self) -> str:
        """Name of the policy that was selected last; it acts, or will."""
        return (self._selected or self._set.acting).name

    def start(
        self, now: float, state: RobotState, seed: int | None = None, waits: bool = False
    ) -> None:
        """Permit commands: begin an episode at `state`, which must have no faults.

        A selection that did not take effect yet is dropped.

        Args:
            now: steady time [s].
            state: where the episode begins.
            seed: of the noise; none: its generator continues.
            waits: a robot with phases waits for a request, as after a stop.
        """
        self._selected = None
        self.policy.reset(seed)
        self._reset_history()
        self._late_streak, self._was_late = 0, False
        self._damped = False
        self.phases.restart(waits)
        self._require()
        self._stepped_at = None
        self.safety.arm(now, state, self.policy.spec, ramps=not self.phases.exists)

    def start_problem(self, state: RobotState) -> str:
        """Return why commands may not begin at a reading, as a sentence; empty: they may.

        Args:
            state: the reading.
        """
        if self.phases.exists:
            return self.phases.start_problem(state)
        return self._set.acting.start_pose.problem(state)

    def request(self, goal: Goal, state: RobotState) -> str:
        """Ask for a goal of the phases; see `PhaseMachine.request`.

        Args:
            goal: where the phases lead from now on.
            state: the newest usable reading.
        """
        return self.phases.request(goal, state)

    def select(self, name: str, state: RobotState) -> str:
        """Let another policy act from the next step on.

        Args:
            name: of the policy.
            state: the newest usable reading.

        Returns:
            Why it is refused, as a sentence; empty: it is selected.
        """
        wanted = self._set.loaded.get(name)
        if wanted is None:
            return f"policy {name}: expected one of {', '.join(self._set.loaded)}"
        problem = ""
        if self.phases.runs_policy and wanted is not self._set.acting:
            problem = self._inputs_problem(wanted, state)
        if not problem:
            self._selected = wanted
        return problem

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
        if state is not None and not self.safety.latched and BLINDING.isdisjoint(found):
            if self.safety.level == SafetyLevel.DAMP:
                self._reset_history()
                self._damped = True
            elif self._gap:  # a history across a gap would show a motion that did not happen
                self._set.reset_histories()
            if Fault.SELF_LATE in found:
                self._sent = None
            elapsed = self.safety.limits.elapsed(self._stepped_at, now)
            self._advance(now, elapsed, state)
            if self.phases.stops:
                found.append(Fault.PHASE_FAILED)
            elif not self.phases.runs_policy:
                before = self.safety.last_command if self._sent is None else self._sent
                wanted = self.phases.command(state, before, elapsed)
            else:
                if self.phases.halts:
                    state = state._replace(command_velocity=np.zeros(3))
                self._switch(now, state)
                encoder, decoder = self._set.acting.encoder, self._set.acting.decoder
                observation = encoder.encode(state, decoder.last_action)
                wanted = self._blended(self._infer(observation, state), elapsed)
                if self._late_streak >= self.robot.safety.consecutive_misses:
                    found.append(Fault.OVERRUN)
        # the operating system may have suspended this process anywhere in between
        spent = 0.0 if simulated else self._clock() - began
        if wanted is not None and age + spent > self.robot.state.max_age:
            found += [Fault.OVERRUN, Fault.OBSERVATION_STALE]
            wanted = None  # a command for a state that is too old
        if spent > self.robot.command.timeout:
            found.append(Fault.SELF_STALLED)
        self._gap, self._stepped_at = observation is None, now
        self._to_record = (now, state, observation)
        decision = self.safety.step(now + spent, wanted, state, found)
        decision = decision._replace(phase=self.phases.phase, policy=self.acting)
        followed = wanted is not None and decision.level <= SafetyLevel.CLAMP
        self._sent = decision.of_step.value if followed else None
        return decision

    def between(self, now: float) -> JointCommand | None:
        """Return a command between two steps, where `robot.command.rate` is above the policy's.

        Args:
            now: steady time [s].

        Returns:
            The command to send; None: nothing is to be sent.
        """
        return self.safety.between(now)

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
        decision, reached = self.safety.shut_down(now, state, faults)
        return decision._replace(phase=self.phases.phase, policy=self.acting), reached

    def record(self, decision: Decision) -> None:
        """Record the step of this decision. Call it after publishing, which should not wait."""
        now, state, observation = self._to_record
        self.recorder.add(now, state, observation, self._action, decision)

    # ---- phases

    def _advance(self, now: float, elapsed: float, state: RobotState) -> None:
        """Let the phases go on, unless a response to a fault commands the robot."""
        if not self.phases.exists or self.safety.level > SafetyLevel.CLAMP:
            return
        before, sent = self.phases.phase, self.safety.last_command
        if self._damped:
            self._damped = False
            self.phases.resume(state, sent)
        self.phases.advance(elapsed, state, sent)
        if not self.phases.runs_policy:  # its commands begin at the last one by themselves
            self.safety.end_ramp()
        if self.phases.phase == before:
            return
        if self.phases.runs_policy:  # as at the beginning of an episode in training
            self._take_selected()
            self.policy.reset()
            self._reset_history()
            self._late_streak = 0
            self.safety.begin_ramp(now)
        self._require()

    def _require(self) -> None:
        """Judge readings by what the policy needs, or by what every phase needs."""
        runs = self.phases.runs_policy
        self.safety.require(self._needs[self.acting] if runs else self._needs_without)

    def _policy_problem(self, state: RobotState, moving: bool) -> str:
        """Return why the policy may not start from a reading, as a sentence; empty: it may.

        Args:
            state: the reading.
            moving: whether the robot may move.
        """
        chosen = self._selected or self._set.acting
        return chosen.start_pose.problem(state, moving) or self._inputs_problem(chosen, state)

    def _inputs_problem(self, chosen: LoadedPolicy, state: RobotState) -> str:
        """Return which input of a policy is missing, as a sentence; empty: none."""
        if problem := self.input_problem(chosen.spec):
            return problem
        needs = self._needs[chosen.name]
        if serious(self.safety.faults_in(state, needs)):
            return f"the robot's state is not usable: {self.safety.describe(state, needs)}"
        return ""

    # ---- policies

    def _take_selected(self) -> None:
        if self._selected is not None:
            self._set.acting, self._selected = self._selected, None
        self._offset_left = 0.0

    def _switch(self, now: float, state: RobotState) -> None:
        """Let the selected policy act; show this step to the others."""
        sent, chosen, self._selected = self.safety.last_command, self._selected, None
        if chosen is not None and chosen is not self._set.acting:
            if problem := self._inputs_problem(chosen, state):  # of a newer reading than `select`'s
                self.phases.failure = f"does not switch to policy {chosen.name}: {problem}"
            else:
                chosen.take_over(state, sent)
                self._set.acting = chosen
                self._require()
                if self.safety.ramps(now):  # what is left of it leads to the new policy
                    self.safety.begin_ramp(now)
                else:
                    self._offset_left = np.inf  # the offset follows from the first command
        self._set.look_on(state, sent)

    def _blended(self, wanted: JointCommand, elapsed: float) -> JointCommand:
        """Return the command with what is left of the offset at the last switch.

        Where two policies differ, the difference decays while the new one acts already: no policy
        is evaluated twice, and none is left standing still meanwhile.
        """
        if self._offset_left <= 0:
            return wanted
        blend = self.robot.safety.blend
        if np.isinf(self._offset_left):
            self._offset = self.safety.last_command - wanted.value
            self._offset_left = blend
        self._offset_left -= elapsed
        if self._offset_left <= 0:
            return wanted
        return wanted._replace(value=wanted.value + self._offset * (self._offset_left / blend))

    def _infer(self, observation: Float32Array, state: RobotState) -> JointCommand:
        began = self._clock()
        action = self.policy.act(observation)
        self.inference = self._clock() - began
        self._was_late = self.inference > self.policy.spec.period
        self._late_streak = self._late_streak + 1 if self._was_late else 0
        self._action[:] = action  # the policy reuses its array
        return self._set.acting.decoder.decode(action, state, self._sent)

    def _reset_history(self) -> None:
        self._set.reset()
        self._sent = None
        self._offset_left = 0.0
