"""Run a policy over real ROS 2 on one machine: `python -m ros_nodes.loopback policy.onnx`.

policy_node and sim_node run as separate processes over DDS; no `ros2` command is needed. This is
the test to pass before using hardware: exit code 1 if the return is below the one certified in the
policy's provenance, deadlines are missed, or the safety filter had to hold, damp or stop. A policy
that tracks a velocity is given a velocity command, and its tracking errors are compared with those
in the training environment.
The limit for inference time is measured before and after the run on this machine; the policy's
certificate has the latency on the machine that exported it.
"""

from __future__ import annotations

if __name__ == "__main__":
    import signal
    from importlib import import_module

    from dime_robot.runtime.io.command import run_command
    from dime_robot.runtime.io.extras import require_extras

    require_extras(cpu=("onnxruntime",), eval=("mujoco", "gymnasium"), ros=("rclpy",))
    # SIGTERM, as of a supervisor, ends both nodes and removes the recordings as Ctrl-C does
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # the imports below take seconds: inside run_command an interruption is one word then, too
    run_command(lambda: import_module("ros_nodes.loopback").main())

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dime_robot.runtime.contract.config_diff import differences
from dime_robot.runtime.contract.config_files import read_config, shipped_config, shipped_names
from dime_robot.runtime.contract.interpolation import require_trained
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import load_robot, require_compatible
from dime_robot.runtime.io import option_types
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.noise import NOISE_MODES
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.runtime.telemetry.latency import LatencySample, percentiles_of
from dime_robot.runtime.telemetry.machine import cpu_model
from dime_robot.runtime.telemetry.measure_latency import measure_latency
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.config.task import VELOCITY
from dime_robot.sim.config.trust import typed_env
from dime_robot.sim.tasks.digest import require_recorded_task
from dime_robot.sim.tasks.lookup import is_own
from ros_nodes.latency_record import column, latency_table, measured_rate
from ros_nodes.loopback_session import Session, is_file
from ros_nodes.loopback_tracking import (
    Commands,
    Rehearsal,
    commands_given,
    describe_tracking,
    followed,
    judge_tracking,
    rehearse,
    tracking_of,
    velocity_to_send,
)
from ros_nodes.parameters import PolicyParameters, SimParameters, limits_of
from ros_nodes.startup_checks import COLD_CALLS, WARM_CALLS

RETURN_SHARE = 0.9  # of the certified mean return
MAX_MISSED_SHARE = 0.01
MAX_EPISODES = 10_000
MIN_SECONDS = 1.0  # [s] of a run: policy_node reports its steps once a second
MIN_RATE = 1.0  # [Hz] of states, as in a robot's configuration


def private_domain() -> None:
    """Use a separate ROS domain on this machine only, away from any robot's graph."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(60, 100))


def judge(result: dict[str, Any]) -> list[str]:
    """List the requirements that are not met, one sentence each; empty: all are met."""
    problems = []
    promised, mean = result["promised_return"], result["return_mean"]
    if result["tracking"] is not None:  # the certified return is for other velocities
        problems += judge_tracking(result["tracking"])
    elif mean is not None:
        minimum = promised - (1 - RETURN_SHARE) * abs(promised)
        if mean < minimum:
            problems.append(f"return {mean:.1f}, expected at least {minimum:.1f}")
    inference, promised = result["inference_p50_ms"], result["promised_inference_ms"]
    if inference > promised:
        problems.append(
            f"inference takes {inference:.3f} ms (median) beside ROS, by itself on this machine"
            f" {promised:.3f} ms (p99 with cold caches)"
        )
    if result["missed_share"] > MAX_MISSED_SHARE:
        problems.append(f"{result['missed_share']:.1%} of the deadlines missed")
    if result["faults"]:
        problems.append(f"faults: {'; '.join(result['faults'])}")
    return problems


def run(options: argparse.Namespace, policy: OnnxPolicy, log_folder: Path) -> dict[str, Any]:
    """Run all episodes.

    Returns:
        The result, as `--json` prints it.

    Raises:
        InputError: there is no task, so no episode ends, and `--seconds` is not given.
    """
    config, _ = load_robot_task(options.config)
    if config.task is None and not options.seconds:
        raise InputError(f"{options.config} has no task, so no episode ends: give --seconds S")
    seconds = options.seconds or options.episodes * config.episode_seconds
    robot = load_robot(options.robot, policy.spec) if options.robot else config.robot
    require_compatible(policy.spec, robot, policy.file.interpolation)
    for each in (config.robot, robot):
        if each.joystick is not None:
            raise InputError(
                f"robot {each.name}: expected a file without the section robot.joystick, since the"
                " loopback has no hand to hold one, got one"
            )
    fixed = commands_given(options.command, policy.spec)
    velocity = velocity_to_send(options.velocity, policy.spec, robot)
    if velocity is not None:
        fixed[VELOCITY] = velocity
    rehearsal: Rehearsal | None = None  # in the training environment
    if config.task is not None and followed(policy.spec) & config.task.commands.keys():
        number = 1 if options.seconds else options.episodes
        rehearsal = rehearse(policy, options.config, fixed, seconds / number, number, options.seed)
    commands: Sequence[Commands] = (fixed,) if rehearsal is None else rehearsal.commands
    _require_all(commands[0], policy.spec)
    alone = [measure_latency(policy, WARM_CALLS, COLD_CALLS)]
    policy.reset(options.seed)
    with Session(options, policy, log_folder, commands) as session:
        session.run(seconds)
    # again, since other programs may have started on this machine meanwhile
    alone.append(measure_latency(policy, WARM_CALLS, COLD_CALLS))
    samples = np.array(session.samples).reshape(-1, len(LatencySample._fields))
    inference = column(samples, "inference")
    inference = inference[inference > 0]  # 0 where the policy did not run
    returns = [episode["return"] for episode in session.episodes]
    tracking = None
    if rehearsal is not None and session.episodes:
        tracking = tracking_of(session.episodes, rehearsal, robot.safety.ramp)
    certificate = policy.file.provenance.noise[policy.noise.mode]
    return {
        "policy": policy.file.policy_digest,
        "config": options.config,
        "cpu": cpu_model(),
        "mode": options.mode,
        "noise": policy.noise.mode,
        "seconds": seconds,
        "episodes": session.episodes,
        "return_mean": float(np.mean(returns)) if returns else None,
        "promised_return": certificate.return_mean,
        "tracking": tracking,
        "inference_p50_ms": 1e3 * float(np.median(inference)) if len(inference) else 0.0,
        "promised_inference_ms": max(latency.cold_p99 for latency in alone),
        "rate": policy.spec.rate,
        "measured_rate": measured_rate(samples),
        "steps": len(samples),
        "missed_share": float(column(samples, "missed").mean()) if len(samples) else 1.0,
        "latency_ms": {
            name: {"p50": 1e3 * p.p50, "p99": 1e3 * p.p99, "max": 1e3 * p.max}
            for name, p in percentiles_of(samples).items()
        }
        | _interpolation_ms(policy),
        "answers": dict(session.responses),
        "faults": session.faults,
    }


def _interpolation_ms(policy: OnnxPolicy) -> dict[str, dict[str, float]]:
    """Return the row of the interpolation's delay in the table of latencies [ms]; empty: none."""
    if not policy.file.interpolation:
        return {}
    delay = 1e3 * policy.file.interpolation.delay(policy.spec)
    return {"interpolation": dict.fromkeys(("p50", "p99", "max"), delay)}


def _require_all(commands: Commands, spec: PolicySpec) -> None:
    """Refuse to run without a value of a command that no task draws."""
    for name, signal in spec.signals.items():
        if signal.kind == "command" and name not in commands:
            raise InputError(
                f"policy {spec.name} follows the command {name}, which no task draws here: expected"
                f" --command {name}= and {signal.width} numbers, got none"
            )


def configuration(given: str | None, policy: OnnxPolicy, robot: Path | None = None) -> str:
    """Return the name or absolute path of the configuration that is simulated.

    Args:
        given: name or file; None: the robot's file if it has the sections policy and sim, else
            the shipped configuration of the policy's name.
        policy: the configuration has to have its contract.
        robot: file of the robot, if one is given.

    Raises:
        InputError: there is no such configuration, or its contract is not the policy's.
    """
    name = given
    if name is None and robot is not None and _is_simulated(robot):
        name = str(robot)
    if name is None:  # the policy's own name selects a shipped configuration, never a file
        name = policy.spec.name
        if shipped_config(name) is None:
            known = ", ".join(shipped_names())
            raise InputError(
                f"sim:{name}: expected one of {known}, or what policy {name} was trained with:"
                " --config FILE (a --robot FILE with the sections policy and sim does as well)"
            )
    if is_file(name):
        name = str(Path(name).expanduser().resolve())
    if given is not None and is_file(given):
        typed_env(None, Path(name))
        require_recorded_task(Path(name), policy.file.provenance.task_digest, policy.path)
    config, _ = load_robot_task(name)
    found = [item for item in differences(policy.spec, config.policy) if item[0] != "name"]
    if found:
        place, trained, got = found[0]
        option = "--robot" if given is None and robot else "--config"
        raise InputError(
            f"{option} {name}: policy.{place}: expected {trained}, as policy {policy.spec.name} was"
            f" trained with, got {got}: name the file that it was trained with",
            code="contract",
        )
    simulated = config.robot.command.interpolated
    require_trained(policy.file.interpolation, simulated, policy.spec.name, name)
    if given is None and config.task is not None:  # sim_node would import them
        for section, term, entry in config.task.entries():
            if is_own(entry.term, section):
                raise InputError(
                    f"--robot {name}: task.{section}.{term}: {entry.term} is code of the user's"
                    f" own, which is imported only for a file that is typed: --config {name}"
                )
    return name


def _is_simulated(robot: Path) -> bool:
    """Whether a robot's file also has the sections that its simulation needs."""
    return is_file(str(robot)) and {"policy", "sim"} <= read_config(robot.expanduser()).keys()


def describe(result: dict[str, Any]) -> None:
    """Print the result."""
    print(f"simulated    {result['config']}")
    for number, episode in enumerate(result["episodes"], 1):
        success = "success" if episode["success"] else "no success"
        success = "fell" if episode.get("fallen") else success
        print(f"episode {number:3d}  return {episode['return']:8.1f}   {success}")
    if result["tracking"] is not None:
        describe_tracking(result["tracking"], result["noise"])
    elif result["return_mean"] is not None:
        print(
            f"mean         return {result['return_mean']:8.1f}   certified"
            f" {result['promised_return']:.1f} ({result['noise']} noise)"
        )
    else:
        print("no episode was long enough to judge its return")
    print(
        f"rate         {result['measured_rate']:.2f} Hz of {result['rate']:g},"
        f" {result['steps']:,} steps, {result['missed_share']:.2%} of the deadlines missed"
    )
    print(*latency_table(result["latency_ms"]), sep="\n")
    responses = [f"{name} {count:,}" for name, count in result["answers"].items() if count]
    print(f"responses    {', '.join(responses)}")
    print(f"faults       {'; '.join(result['faults']) or 'none'}")


def _parser() -> Parser:
    parser = Parser(
        "python -m ros_nodes.loopback",
        "Run a policy over real ROS 2 on one machine, with the simulated robot. Exit code 1: the"
        " result is not as certified.",
    )
    add = parser.add_argument
    add("policy", type=Path, help="a file written by python -m export.onnx")
    text = f"number of whole episodes, 1 to {MAX_EPISODES:,}"
    add("--episodes", type=option_types.int_in(1, MAX_EPISODES), default=1, help=text)
    longest = limits_of(SimParameters, "episode_seconds")[1]
    add(
        "--seconds",
        type=option_types.float_in(MIN_SECONDS, longest),
        help=f"run for so long [s], {MIN_SECONDS:g} to {longest:,g}, not for whole episodes; one"
        " episode if a velocity is followed",
    )
    fastest = limits_of(SimParameters, "state_rate")[1]
    add(
        "--rate",
        type=option_types.float_in(MIN_RATE, fastest),
        help=f"states per second [Hz], {MIN_RATE:g} to {fastest:,g}; by default the robot's own",
    )
    add(
        "--config",
        type=str,
        metavar="NAME|FILE",
        help="what is simulated: a name in sim_configs/ or a file; by default --robot's file where"
        " it has a section sim, else the policy's own name",
    )
    add(
        "--robot",
        type=Path,
        help="another robot configuration for policy_node; by default the one in --config",
    )
    add(
        "--velocity",
        type=float,
        nargs=3,
        metavar=("VX", "VY", "WZ"),
        help="velocity to follow [m/s, m/s, rad/s]; by default 0.5 0 0, within the robot's limits",
    )
    add(
        "--command",
        action="append",
        default=[],
        metavar="NAME=V,V",
        help="value of a command of the task, for all episodes; by default the task draws one for"
        " each episode; again for each further command",
    )
    text = "realtime: paced by the wall clock; lockstep: each state waits for the command before it"
    add("--mode", choices=("realtime", "lockstep"), default="realtime", help=text)
    text = "noise mode of the sampler, one certified in the file"
    add("--noise", choices=NOISE_MODES, default="fresh", help=text)
    text = "starts and noises follow from it"
    low, high = map(int, limits_of(PolicyParameters, "seed"))
    add("--seed", type=option_types.int_in(low, high), default=0, help=text)
    add(
        "--budget",
        type=option_types.float_in(*limits_of(PolicyParameters, "budget")),
        default=0.5,
        help="share of the control period that inference may take at p99, as policy_node's budget",
    )
    text = "run policy_node with realtime:=true: memory locked, FIFO scheduling"
    add("--realtime-profile", action="store_true", help=text)
    add("--json", action="store_true", help="print the result as one JSON object instead of lines")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    options = _parser().parse_args(argv)
    policy = OnnxPolicy(options.policy, noise=options.noise)
    options.config = configuration(options.config, policy, options.robot)
    private_domain()
    with tempfile.TemporaryDirectory(prefix="dime_robot-") as folder:
        result = run(options, policy, Path(folder))
    problems = judge(result)
    if options.json:
        print(json.dumps({**result, "problems": problems}, indent=1))
    else:
        describe(result)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0
