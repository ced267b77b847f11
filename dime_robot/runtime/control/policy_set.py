"""PolicySet: the policies between which an operator switches, one of which acts.

Each has an encoder and a decoder of its own. While one acts, the others see what happens: their
histories are those of the robot, and their last actions those that would have commanded it, so that
another one can go on where this one stops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dime_robot.runtime.contract.policy_spec import SIGNAL_TERMS, FloatArray, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig, require_compatible
from dime_robot.runtime.control.activation import StartPose
from dime_robot.runtime.control.observation import ActionDecoder, ObservationEncoder
from dime_robot.runtime.control.state import RobotState
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import Policy

MAX_POLICIES = 16  # of one robot; each is measured and kept in memory
JOINT_FIELDS = ("name", "type", "stiffness", "damping")  # that a switch cannot change


class LoadedPolicy:
    """One policy of a set, with the state that belongs to it alone.

    Args:
        name: in the set.
        policy: evaluated while it acts.
        robot: the machine, found compatible.
    """

    def __init__(self, name: str, policy: Policy, robot: RobotConfig) -> None:
        self.name, self.policy, self.spec = name, policy, policy.spec
        self.encoder, self.decoder = ObservationEncoder(self.spec), ActionDecoder(self.spec)
        self.start_pose = StartPose(self.spec, robot)
        self._has_history = any(term.history > 1 for term in self.spec.observation)

    def reset(self) -> None:
        """Forget history and last action."""
        self.encoder.reset()
        self.decoder.reset()

    def look_on(self, state: RobotState, sent: FloatArray) -> None:
        """See a step in which another policy acts.

        Args:
            state: the reading of the step.
            sent: the command before it, shape (n_act,).
        """
        if not self._has_history:
            return
        self.decoder.last_action = self.decoder.action_of(sent, state)
        try:
            self.encoder.encode(state, self.decoder.last_action)
        except ValueError:  # an input that only this policy needs has not come
            self.encoder.reset()

    def take_over(self, state: RobotState, sent: FloatArray) -> None:
        """Begin to act where another policy stopped.

        Args:
            state: the reading of the step.
            sent: the command before it, shape (n_act,).
        """
        self.policy.reset()
        self.decoder.last_action = self.decoder.action_of(sent, state)


class PolicySet:
    """See the module's docstring.

    Args:
        policies: one, or several by name; the first acts first.
        robot: the machine.

    Raises:
        InputError: a policy does not fit the robot, or one cannot be switched to (code switch).
    """

    def __init__(self, policies: Policy | Mapping[str, Policy], robot: RobotConfig) -> None:
        named = by_name(policies)
        if not 1 <= len(named) <= MAX_POLICIES:
            raise InputError(f"expected 1 to {MAX_POLICIES} policies, got {len(named)}")
        for policy in named.values():
            require_compatible(policy.spec, robot, policy.file.interpolation)
        (first, of_first), *others = named.items()
        for name, policy in others:
            for problem in switch_problems(first, of_first.spec, name, policy.spec):
                raise InputError(problem, code="switch")
        self.loaded = {name: LoadedPolicy(name, policy, robot) for name, policy in named.items()}
        self.policies: Mapping[str, Policy] = named
        self.spec = combined({name: policy.spec for name, policy in named.items()})
        self.acting = self.loaded[first]

    def look_on(self, state: RobotState, sent: FloatArray) -> None:
        """Show a step to all policies that do not act; arguments as in `LoadedPolicy.look_on`.

        Args:
            state: the reading of the step.
            sent: the command before it, shape (n_act,).
        """
        for other in self.loaded.values():
            if other is not self.acting:
                other.look_on(state, sent)

    def reset(self) -> None:
        """Forget the histories of all."""
        for each in self.loaded.values():
            each.reset()

    def reset_histories(self) -> None:
        """Forget the readings, not the last actions."""
        for each in self.loaded.values():
            each.encoder.reset()


def by_name(policies: Policy | Mapping[str, Policy]) -> dict[str, Policy]:
    """Return policies by name; a single one has the name of its contract."""
    if isinstance(policies, Mapping):
        return dict(policies)
    return {policies.spec.name: policies}


def combined(specs: Mapping[str, PolicySpec]) -> PolicySpec:
    """Return the contract of a robot with several policies: the first, which observes what all do.

    Only its joints, its action and the kinds of its terms mean anything; no policy has this
    observation.

    Args:
        specs: by the policies' names, between which a switch is possible.
    """
    first, *others = specs.values()
    terms = list(first.observation)
    shown = {term.model_copy(update={"name": ""}) for term in terms}
    for name, spec in list(specs.items())[1:]:
        for term in spec.observation:
            if term.model_copy(update={"name": ""}) in shown:
                continue
            shown.add(term.model_copy(update={"name": ""}))
            update = {"name": f"{name}/{term.name}"}
            if term.kind in SIGNAL_TERMS:
                update["signal"] = term.signal_name
            terms.append(term.model_copy(update=update))
    return first.model_copy(update={"observation": tuple(terms)}) if others else first


def switch_problems(first: str, ours: PolicySpec, name: str, theirs: PolicySpec) -> Iterator[str]:
    """Yield why a running robot cannot be switched between two policies, a sentence each.

    Args:
        first: name of a policy.
        ours: its contract.
        name: of the other.
        theirs: its contract.
    """

    def problem(what: str, expected: object, got: object) -> str:
        return (
            f"policy {name}: expected {what} {expected} as policy {first} has, got {got}: a running"
            " robot is not switched between them"
        )

    if theirs.rate != ours.rate:
        yield problem("a rate of", f"{ours.rate:g} Hz", f"{theirs.rate:g} Hz")
    if theirs.action.kind != ours.action.kind:
        yield problem("commands of kind", ours.action.kind, theirs.action.kind)
    names = [[joint.name for joint in spec.joints] for spec in (ours, theirs)]
    if names[0] != names[1]:
        yield problem("the joints", names[0], names[1])
        return
    for joint, other in zip(ours.joints, theirs.joints, strict=True):
        for field in JOINT_FIELDS:
            expected, got = getattr(joint, field), getattr(other, field)
            if expected != got:
                yield problem(f"{field} of {joint.name}", expected, got)
    if theirs.action_joints != ours.action_joints:
        yield problem("to command", list(ours.action_joints), list(theirs.action_joints))
    if theirs.held_joints != ours.held_joints:
        yield problem("the held joints", ours.held_joints, theirs.held_joints)
    if ours.feet and theirs.feet and theirs.feet != ours.feet:
        yield problem("the feet", list(ours.feet), list(theirs.feet))
    for signal, expected in ours.signals.items():
        got = theirs.signals.get(signal, expected)
        if got != expected:
            yield problem(
                f"{signal} to be",
                f"a {expected.kind} of {expected.width} numbers",
                f"a {got.kind} of {got.width}",
            )
