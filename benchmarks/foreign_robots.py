"""Draft configurations of robots that are not this project's, and simulate them at action 0.

    python -m benchmarks.foreign_robots ROOT [ROBOT ...]

ROOT is a folder of models, such as a clone of MuJoCo Menagerie; a robot is a NAME or NAME/ENTRY in
it, or the path of a file, MJCF or URDF. For each robot: does
`python -m dime_robot.config new` write what `check` accepts, without an edit, and what does the
robot do in two seconds at action 0? Models are read, never changed.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from dime_robot.results.tables import text_table
from dime_robot.runtime.io.command import run_command
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.draft_request import DraftRequest
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.draft.new import Draft, draft
from dime_robot.sim.examination import examine
from dime_robot.sim.plant.plant import make_plant

ROBOTS = (
    "unitree_go1",
    "boston_dynamics_spot",
    "unitree_g1",
    "universal_robots_ur5e",
    "franka_emika_panda",
)
SECONDS = 2.0  # at action 0
MAX_ERROR = 0.05  # with a fixed base [rad or m]
MIN_HEIGHT = 0.9  # of a robot on four feet, of its height at the start [1]
HEADER = ["robot", "joints", "seconds", "edits", "check", "after 2 s at action 0"]


def after(result: Draft) -> tuple[str, bool]:
    """Simulate two seconds at action 0; return what happened, and whether it is good enough."""
    config, model = load_robot_task(result.path)
    plant = make_plant(config, model)
    height = result.found.height.value if result.found.height is not None else None
    plant.reset(plant.default_pose, height)
    start = plant.base().height if plant.has_free_base else 0.0
    plant.advance(round(SECONDS / config.sim.timestep))
    if not plant.has_free_base:
        errors = plant.pose_errors()
        worst = max(errors, key=errors.__getitem__)
        return f"{errors[worst]:.3f} rad or m off ({worst})", errors[worst] <= MAX_ERROR
    if not result.found.legged:
        return f"base at {plant.base().height:.2f} m, before {start:.2f} m", True
    share = plant.base().height / start
    stands = share >= MIN_HEIGHT
    fell = "" if stands else ", fell" if len(result.found.feet) < 4 else ", sank"
    return f"{share:.0%} of its height{fell}", stands or len(result.found.feet) < 4


def row(robot: str, folder: Path) -> tuple[list[str], bool]:
    """Draft one robot; return its row of the table, and whether all went well."""
    path = Path(robot)
    model = robot if path.suffix in (".xml", ".urdf") else f"menagerie:{robot}"
    name = path.name if model == robot else robot
    start = time.perf_counter()
    try:
        result = draft(DraftRequest(model, output=folder / f"{path.stem}.yaml"))
    except InputError as error:
        seconds = f"{time.perf_counter() - start:.1f}"
        return [name, "", seconds, "", f"refused: {error}", ""], False
    seconds = f"{time.perf_counter() - start:.1f}"
    problems = examine(str(result.path)).problems
    happened, good = after(result)
    joints = str(len(result.found.of_role("moved")))
    edits, checked = ("0", "accepted") if not problems else ("?", problems[0])
    return [name, joints, seconds, edits, checked, happened], good and not problems


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = Parser("python -m benchmarks.foreign_robots", __doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="folder of models, like a clone of Menagerie")
    parser.add_argument(
        "robots", nargs="*", default=list(ROBOTS), help="NAME, NAME/ENTRY, or a file"
    )
    options = parser.parse_args(argv)
    os.environ["MENAGERIE_ROOT"] = str(options.root)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(name, Path(folder)) for name in options.robots]
    print(text_table(HEADER, [cells for cells, _ in rows]))
    return 0 if all(good for _, good in rows) else 1


if __name__ == "__main__":
    run_command(main)
