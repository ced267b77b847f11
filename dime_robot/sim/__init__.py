"""The simulated robot: MuJoCo behind the same RobotState and JointCommand as a real one."""

import os
import sys


def _import_mujoco(asked: str) -> None:
    """Import MuJoCo, without its renderer where the one that MUJOCO_GL names cannot be loaded.

    Importing it loads that renderer, which most commands never use. Those that do say so then.
    """
    try:
        import mujoco
    except ModuleNotFoundError as error:
        if error.name != "mujoco":
            raise
    except Exception:  # every GL back end fails in its own way
        sys.modules.pop("mujoco.rendering.classic.gl_context", None)
        os.environ["MUJOCO_GL"] = "disable"
        try:
            import mujoco  # noqa: F401
        finally:
            os.environ["MUJOCO_GL"] = asked


if "MUJOCO_GL" in os.environ:  # else the modules that need MuJoCo import it, and --help does not
    _import_mujoco(os.environ["MUJOCO_GL"])
