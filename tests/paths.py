"""Where tests find what the repository holds."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
ROBOTS = ROOT / "tests" / "robots"  # configurations and models of test robots
SHIPPED_CARTPOLE = ROOT / "results" / "sim-cartpole.onnx"
SHIPPED_GO2 = ROOT / "results" / "go2" / "policy.onnx"
RUN_OF_RELEASE_0_1 = ROOT / "tests" / "data" / "run_of_release_0_1"
