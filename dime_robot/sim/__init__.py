"""The simulated robot: MuJoCo with the same RobotState and JointCommand as a real one."""

import os
import sys


def _import_mujoco(backend: str) -> None:
    """Import MuJoCo, without a renderer if the backend cannot be loaded.

    The import loads that renderer, which most commands never use. Those that do fail later.

    Args:
        backend: value of MUJOCO_GL.
    """
    try:
        import mujoco
    except ModuleNotFoundError as error:
        if error.name != "mujoco":
            raise
    except Exception:  # the exception depends on the backend
        sys.modules.pop("mujoco.rendering.classic.gl_context", None)
        os.environ["MUJOCO_GL"] = "disable"
        try:
            import mujoco  # noqa: F401
        finally:
            os.environ["MUJOCO_GL"] = backend


if "MUJOCO_GL" in os.environ:  # else only the modules that need MuJoCo import it
    _import_mujoco(os.environ["MUJOCO_GL"])
