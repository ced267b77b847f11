"""What `tests/test_malformed_configs.py` writes wrong, and what has to be said about it.

A row: the file, the place (joints and terms by name), what stands there instead, the sentence.
"""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

GONE = object()  # the key is not there at all
NAN, INF = math.nan, math.inf
FLAT = {"kind": "flat", "size": 1}
LEGS = [f"{leg}_{part}_joint" for leg in ("FL", "FR", "RL", "RR") for part in ("hip", "thigh")]
FL_HIP = "policy.joints.FL_hip_joint"
FR_HIP = "robot.joints.FR_hip_joint"
MILLI = "really in s, not in ms"

# fmt: off
UNKNOWN_KEYS = [
    ("go2", place, 1, rf"{named}.colour: Extra inputs are not permitted, got 1")
    for place, named in (
        ("policy.colour", "policy"),
        (FL_HIP + ".colour", r"policy.joints.0"),
        ("policy.observation.gyro.colour", r"policy.observation.0"),
        ("policy.action.colour", "policy.action"),
        ("robot.colour", "robot"),
        (FR_HIP + ".colour", "robot.joints.0"),
        ("robot.state.colour", "robot.state"),
        ("robot.imu.colour", "robot.imu"),
        ("robot.command_velocity.colour", "robot.command_velocity"),
        ("robot.command.colour", "robot.command"),
        ("robot.safety.colour", "robot.safety"),
        ("sim.colour", "sim"),
    )
] + [
    ("go2", "colour", 1, "yaml: colour: Extra inputs"),
    ("go2", "task.colour", 1, "task.colour: expected one of the keys .*'hips'.*, got .* with 1"),
    ("go2", "task.rewards.colour", 1, r"rewards.colour: expected one .*'tilt'.*, got .* with 1"),
    ("go2", "task.commands.colour", 1, r"commands.colour: expected .*'turning'\], got .* with 1"),
]

NOT_A_NUMBER = [
    ("cartpole", "policy.rate", NAN, "policy.rate: .*finite number, got nan"),
    ("cartpole", "policy.rate", INF, "policy.rate: .*finite number, got inf"),
    ("cartpole", "policy.rate", "50", "policy: rate: expected a number, got '50'"),
    ("cartpole", "policy.rate", "fifty", "policy.rate: .*valid number.*, got 'fifty'"),
    ("cartpole", "policy.rate", True, "policy: rate: expected a number, got True"),
    ("cartpole", "policy.rate", None, "policy.rate: .*valid number, got None"),
    ("cartpole", "policy.rate", [50.0], r"policy.rate: .*valid number, got \[50.0\]"),
    ("cartpole", "policy.rate", GONE, "policy.rate: Field required"),
    ("cartpole", "policy.action.scale.slider", NAN, "action.scale.slider: .*finite"),
    ("cartpole", "policy.action.scale.slider", "8", "action: scale.slider: expected a number"),
    ("go2", FL_HIP + ".position_limits", [-INF, 1.0], "joints.0.position_limits.0: .*finite"),
    ("go2", FL_HIP + ".position_limits", ["-1", 1], "joints.0: position_limits.0: expected a num"),
    ("go2", FL_HIP + ".position_limits", 1.0, "joints.0.position_limits: .*valid tuple, got 1.0"),
    ("go2", FL_HIP + ".position_limits", [1.0], "joints.0.position_limits.1: Field required"),
    ("go2", FL_HIP + ".stiffness", True, "joints.0: stiffness: expected a number, got True"),
    ("go2", "task.commands.linear_x", [0.0, NAN], "velocity.linear_x.1: .*finite number, got nan"),
    ("go2", "sim.decimation", 4.5, "sim.decimation: .*valid integer.*, got 4.5"),
    ("go2", "sim.decimation", True, "sim: decimation: expected a number, got True"),
    ("go2", "suite.commands", [[0, 0, INF]], "suite.commands.0.2: .*finite"),
]

SIGNS_AND_RANGES = [
    ("go2", FL_HIP + ".stiffness", -40.0, "joints.0.stiffness: .*greater than 0, got -40"),
    ("go2", FL_HIP + ".stiffness", 0, "joints.0.stiffness: .*greater than 0, got 0"),
    ("go2", FL_HIP + ".stiffness", GONE, "joint FL_hip_joint: expected a stiffness"),
    ("go2", FL_HIP + ".damping", -1.0, "joints.0.damping: .*greater than or equal to 0, got -1"),
    ("go2", "policy.rate", 0, "policy.rate: .*greater than 0, got 0"),
    ("go2", "policy.rate", -50.0, "policy.rate: .*greater than 0, got -50"),
    ("go2", "sim.timestep", 0.0, "sim.timestep: .*greater than 0"),
    ("go2", "sim.timestep", -0.005, "sim.timestep: .*greater than 0"),
    ("go2", "sim.decimation", 5, r"timestep \* sim.decimation = 1 / .* = 0.02 s, got .* = 0.025 s"),
    ("go2", "policy.action.low_pass", 0, "policy.action.low_pass: .*greater than 0"),
    ("go2", "policy.action.low_pass", 1.5, "policy.action.low_pass: .*less than or equal to 1"),
    ("go2", "task.rewards.tilt", 2.0, "task.rewards.tilt.weight: expected up to 0, .* cost .*2$"),
    ("go2", "task.commands.standing", 0.9, "expected standing . turning up to 1, got 0.9 . 0.3"),
    ("go2", "task.commands.linear_x", [0.6, 0.0], "linear_x: expected .lower, upper., got .0.6"),
    ("go2", "task.lowest", 0.4, "task.terminations.sunk: holds where an episode starts"),
    ("cartpole", "task.success_share", 1.2, "stands.share: .*less than or equal to 1, got 1.2"),
    ("cartpole", "task.success_share", 0, "stands.share: .*greater than 0, got 0"),
    ("cartpole", "task.success_window", 11.0, "stands.window: expected up to episode_seconds = 10"),
    ("cartpole", "robot.joints.slider.sign", 0, "robot.joints.0.sign: .* 1 or -1, got 0"),
]

LIMITS = [
    ("go2", FL_HIP + ".position_limits", [1.0, -1.0], "joint FL_hip_joint: expected position_lim"),
    ("go2", FL_HIP + ".default_position", 1.2, "FL_hip_joint: expected a default_position in"),
    ("go2", "policy.joints.FL_calf_joint.default_position", GONE, "FL_calf_joint: .* got 0"),
    ("go2", FR_HIP + ".position_limits", [1.0, -1.0], "joint FR_hip_joint: expected position_lim"),
    ("go2", FR_HIP + ".position_limits", [-2.0, 1.0], "FR_hip_joint: .* not loosened"),
    ("go2", FR_HIP + ".safe_position", 3.0, "joint FR_hip_joint: expected safe_position in"),
    ("go2", FR_HIP + ".safe_position", GONE, "FR_hip_joint: expected a safe_position"),
    ("go2", FR_HIP + ".effort_limit", 30.0, "FR_hip_joint: .* effort up to 23.7, .* allows 30"),
    ("cartpole", "policy.action.scale.slider", 9.0, "scale.slider: expected a scale in .0, effort"),
]

OTHER_UNITS = [
    ("go2", FL_HIP + ".position_limits", [-60, 60], "FL_hip_joint: pos.* rad, got -60: .*degrees"),
    ("go2", FL_HIP + ".effort_limit", 23700, "joint: effort_limit: .* 23700: .* not in mN m"),
    ("go2", "policy.action.scale.FL_hip_joint", 17.2, "scale.FL_hip_joint: .* not in degrees"),
    ("go2", "policy.rate", 0.02, "rate: expected at least 1 Hz, got 0.02: .* not a period in s"),
    ("go2", "sim.timestep", 5, f"sim.timestep: expected up to 0.1 s, got 5: .*{MILLI}"),
    ("go2", "sim.timestep", 20, f"sim.timestep: expected up to 0.1 s, got 20: .*{MILLI}"),
    ("go2", FR_HIP + ".velocity_limit", 1724, "FR_hip_joint: velocity_limit .* not in degrees/s"),
    ("cartpole", "robot.joints.hinge.position_limits", [-180, 180], "hinge: .* not in degrees"),
    ("go2", "robot.state.rate", 0.005, "robot.state.rate: expected at least 1 Hz"),
    ("go2", "robot.state.max_age", 30, f"robot.state.max_age: .* {MILLI}"),
    ("go2", "robot.imu.max_age", 30, f"robot.imu.max_age: .* {MILLI}"),
    ("go2", "robot.command_velocity.timeout", 500, f"command_velocity.timeout: .* {MILLI}"),
    ("go2", "robot.command_velocity.limits.linear_x", 600, "limits.linear_x: .* not in mm/s"),
    ("go2", "robot.command.timeout", 100, f"robot.command.timeout: .* {MILLI}"),
    ("go2", "robot.safety.hold", 60, "robot.safety.hold: .*less than or equal to 1, got 60"),
    ("go2", "robot.safety.damp", 1000, "robot.safety.damp: .*less than or equal to 60"),
    ("go2", "robot.safety.tilt_limit", 1.05, "safety.tilt_limit: .* 2 degrees, .* not in rad"),
    ("go2", "task.largest_tilt", 1.05, "tilted.angle: .* 2 degrees, got 1.05: .* not in rad"),
    ("go2", "task.start_height", 30, "base.height: expected up to 5 m, got 30: .* not in cm"),
    ("go2", "task.lowest", 15, "sunk.height: .* not in cm"),
    ("go2", "task.start_noise", 2.9, r"pose.noise.\*: .*, got 2.9: .* not in degrees"),
    ("go2", "task.episode_seconds", 20000, f"episode_seconds: .* {MILLI}"),
    ("go2", "task.commands.linear_x", [0, 600], "linear_x.1: .* 10 m/s, got 600: .* not in mm/s"),
    ("go2", "task.commands.angular_z", [-28.6, 28.6], "angular_z.0: .* not in degrees/s"),
    ("go2", "suite.commands", [[600, 0, 0]], "suite: commands: .* up to 10 m/s .*, got .600"),
    ("cartpole", "task.success_angle", 0.2, "stands.angle: .* 1 degrees, got 0.2: .* not in rad"),
]

NAMES_AND_SIZES = [
    ("go2", FL_HIP + ".name", "FR_hip_joint", r"each joint once, got \['FR_hip_joint'\]"),
    ("go2", FR_HIP + ".name", "FL_hip_joint", r"each joint once, got \['FL_hip_joint'\]"),
    ("go2", "policy.observation.gyro.name", "gravity", r"each observation term once"),
    ("go2", "policy.observation.joint_velocity.joints", ["knee"] * 12, "once, got .'knee'. more"),
    ("go2", "policy.observation.joint_velocity.joints", LEGS, "expected size 8 .*, got 12"),
    ("cartpole", "policy.observation.pole_cos.joints", ["slider"], "a revolute joint, slider is"),
    ("cartpole", "policy.observation.pole_cos.joints", ["knee"], "of the joints .*, got 'knee'"),
    ("go2", "policy.observation.gyro.size", 4, "term gyro: expected size 3 .*, got 4"),
    ("go2", "policy.observation.last_action.size", 11, "last_action: expected 12 numbers"),
    ("go2", "policy.observation.gyro.kind", "gyro", "observation.0.kind: Input should be 'joint_"),
    ("go2", "policy.action.scale.FL_hip_joint", GONE, "action.size: expected 11 .*, got 12"),
    ("go2", "policy.action.scale", dict.fromkeys("abcdefghijkl", 1), "one of the joints .* 'a'"),
    ("cartpole", "policy.action", {**FLAT, "low_pass": 0.5}, "low_pass: a flat action"),
    ("cartpole", "policy.action", FLAT, "action.kind: expected an action of a robot.*, got flat"),
    ("go2", FR_HIP, GONE, r"needs the joints .*, robot go2 lacks \['FR_hip_joint'\]"),
    ("go2", FL_HIP + ".type", "prismatic", "hip_joint: expected a prismatic .*, got hinge"),
    ("go2", "task.hips", ["FL_hip"], r"hip_angle.joints: expected some of .* got 'FL_hip'"),
    ("go2", "task.hips", LEGS[:1] * 2, r"hip_angle.joints: expected each joint once, got \["),
    ("cartpole", "task.cart", "hinge", "rewards.centred: expected a prismatic joint .* 'hinge'"),
    ("cartpole", "task.pole", "wing", r"success.stands: .* out of \['hinge'\], got 'wing'"),
    ("go2", "task.kind", "dance", "task.kind: expected a task of terms .*, got kind 'dance'"),
    ("go2", "task.kind", GONE, "task.kind: expected swing_up or velocity_tracking.*, got none"),
    ("go2", "sim.imu", "head", "sim.imu: expected a body of .*, got head"),
    ("go2", "sim.imu", GONE, "sim.imu: expected the body .* term gyro reads it, got none"),
    ("go2", "sim.camera", "top", r"sim.camera: expected a camera of \['side'\], got top"),
    ("go2", "robot.imu", GONE, "safety.tilt_limit: expected an imu section"),
    ("go2", "robot.command_velocity", GONE, "robot go2 has no command_velocity"),
    ("go2", "policy", GONE, "policy: Field required"),
    ("go2", "policy", [], "policy: .*valid dictionary.*, got"),
    ("go2", "sim.model", "models/none.xml", "none.xml: expected an MJCF model, got none"),
    ("go2", "sim.model", "models", "models: expected an MJCF model, got a folder"),
    ("go2", "sim.model", "cartpole.yaml", "cartpole.yaml: MuJoCo cannot load it"),
    ("go2", "sim.model", "models/cartpole.xml", "cartpole.xml: expected a joint FL_hip_joint"),
    ("go2", "randomization", [{"kind": "friction", "operation": "set", "range": [0.4, 1.2],
                               "mode": "reset", "targets": ["hoof"]}], "friction: .*hoof"),
    ("go2", "latency.action", {"file": "none.json"}, "none.json: expected a latency distribution"),
]

OVERLAYS = [  # go2-walk.yaml: what stands over go2.yaml
    ("go2-walk", "extends", "none.yaml", "go2-walk.yaml: extends: expected a file .*'none.yaml'"),
    ("go2-walk", "extends", ["go2.yaml"], r"extends: expected a file .*, got \['go2.yaml'\]"),
    ("go2-walk", "extends", "a" * 300, "go2-walk.yaml: extends: expected a file .*'aaa"),
    ("go2-walk", "extends", None, "extends: expected a file .*, got None"),
    ("go2-walk", "extends", ".", "extends: expected a file .*, got '.'"),
    ("go2-walk", "extends", "go2-walk.yaml", "expected a file that does not extend itself"),
    ("go2-walk", "extends", GONE, "task.kind: expected swing_up or velocity_tracking"),
    ("go2-walk", "task.commands", [1, 2], r"task.commands: expected a mapping, got \[1, 2\]"),
    ("go2-walk", "task.kind", "swing_up", "task.commands: expected one of the keys .*'cart'"),
    ("go2-walk", "task.comands", {}, "task: comands: unknown, expected one of"),
]
# fmt: on

ROWS = [
    *UNKNOWN_KEYS,
    *NOT_A_NUMBER,
    *SIGNS_AND_RANGES,
    *LIMITS,
    *OTHER_UNITS,
    *NAMES_AND_SIZES,
    *OVERLAYS,
]
TEXTS: list[tuple[str, bytes, str]] = [
    ("a list", b"- policy\n- robot\n", r"expected a mapping, such .* got \['policy', 'robot'\]"),
    ("empty", b"", "expected a mapping, such as a section `robot:`, got None"),
    ("a word", b"cartpole", "expected a mapping, such as a section `robot:`, got 'cartpole'"),
    ("no syntax", b"policy: [1, 2\nrobot: {", "expected YAML, got while parsing .*line 2"),
    ("a tab", b"policy:\n\trate: 1\n", "expected YAML, got .*line 2"),
    ("binary", bytes(range(128, 256)), "expected a configuration in UTF-8, got 'utf-8' codec"),
    ("control characters", b"policy: \x00\x01", "expected YAML, got"),
    ("no such day", b"policy: 2026-13-45", "expected YAML, got month must be"),
    ("too deep", b"[" * 5000, "line 1: expected up to 32 levels, got more"),
    (
        "an object",
        b"policy: !!python/object:os.system {}",
        "line 1: expected a value without a tag, got .*os.system",
    ),
    ("a number as key", b"1: 2\n", "line 1: expected a word as a key, got '1'"),
    ("contains itself", b"policy: &a {b: *a}\n", "alias of 'a', which would contain itself"),
    (
        "a key twice",
        b"policy:\n  rate: 50.0\n  name: x\n  rate: 60.0\n",
        "line 4: .* key rate once",
    ),
    (
        "a section twice",
        b"policy: {}\nsim: {}\npolicy: {}\n",
        "line 3: expected the key policy once",
    ),
]

# ---- mutations, for the tests that throw many of them at a reader

TOKENS = {
    "yaml": [b"&a", b"*a", b"<<: *a", b"!!timestamp ", b"!!int ", b"- ", b"? ", b": ", b"[", b"{",
             b"---\n", b"%TAG ! x\n", b"'", b'"', b"|\n", b">-\n", b"\t", b"2026-13-45", b"="],
    "json": [b"[", b"{", b"]", b"}", b'"', b",", b":", b"null", b"true", b"\\ud800", b"\\u0000"],
    "xml": [b"<", b">", b"/>", b'"', b"<!--", b"-->", b"&lt;", b"&#0;", b"<body>", b"</body>",
            b"<!DOCTYPE x>", b'count="99999999"', b'file="/dev/zero"', b"<![CDATA["],
    "csv": [b",", b"\n", b'"', b",,", b"nan", b"1e400", b"step,seed", b"-", b"\x00"],
    "binary": [b"\x93NUMPY", b"PK\x05\x06", b"PK\x01\x02", b"|O", b"<U4000000000", b"(", b"'"],
}  # fmt: skip
NUMBERS = [b"nan", b"inf", b"-inf", b".nan", b"1e999", b"-1", b"0", b"1e18", b"255", b"99999999999"]
BYTES = [b"\x00", b"\xff", b"\xfe\xff", b"\x80", b"\r", b"\n", b"\x1b[2J", "\u202e".encode()]
_NUMBER = re.compile(rb"-?\d+(\.\d+)?")


def mutated(content: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """One to three changes of a file: bytes, slices, numbers, tokens that mean something.

    Args:
        content: the file as it is right.
        kind: which of TOKENS are thrown in.
        rng: decides everything.
    """
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        if not data:
            return b""
        at = int(rng.integers(len(data)))
        length = int(rng.integers(1, 40))
        match int(rng.integers(8)):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length] * int(rng.integers(1, 50))
            case 3:
                data[at:at] = TOKENS[kind][int(rng.integers(len(TOKENS[kind])))]
            case 4:
                data[at:at] = BYTES[int(rng.integers(len(BYTES)))]
            case 5:
                del data[at:]
            case 6:
                token = TOKENS[kind][int(rng.integers(len(TOKENS[kind])))]
                data[at:at] = token * int(rng.integers(1, 3000))
            case _:
                found = list(_NUMBER.finditer(bytes(data)))
                if found:
                    number = found[int(rng.integers(len(found)))]
                    data[number.start() : number.end()] = NUMBERS[int(rng.integers(len(NUMBERS)))]
    return bytes(data)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail where a reader hangs."""

    def ring(*_: object) -> None:
        raise AssertionError(f"nothing after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
