"""The simulated robot: MuJoCo behind the same RobotState and JointCommand as a real one."""

import os
import sys


def _import_mujoco() -> None:
    """Import MuJoCo, without its renderer where the one that MUJOCO_GL names cannot be loaded.

    Importing it loads that renderer, which most commands never use. Those that do say so then.
    """
    try:
        import mujoco
    except ModuleNotFoundError as error:
        if error.name != "mujoco":
            raise
    except Exception:  # every GL back end fails in its own way
        asked = os.environ.get("MUJOCO_GL")
        if asked is None:
            raise
        sys.modules.pop("mujoco.rendering.classic.gl_context", None)
        os.environ["MUJOCO_GL"] = "disable"
        try:
            import mujoco  # noqa: F401
        finally:
            os.environ["MUJOCO_GL"] = asked


_import_mujoco()
