"""Train with a callback for every evaluation, export, and evaluate the exported policy.

python examples/train_in_a_script.py [STEPS]
"""

import sys
import tempfile
from pathlib import Path

import dime_robot as dr
from dime_robot.training.run import EvaluationEvent


def on_evaluation(event: EvaluationEvent) -> bool:
    """Print the mean return; return False, which ends the run, once it is good enough."""
    print(f"step {event.step}: mean return {event.evaluation.mean:.0f}")
    return event.evaluation.mean < 990


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6000
with tempfile.TemporaryDirectory() as folder:
    run = dr.train_policy(
        "InvertedPendulum-v5",
        steps=steps,
        out=Path(folder) / "run",
        callback=on_evaluation,
        quiet=True,
    )
    file = dr.export_policy(run.folder / "ckpt.pt", Path(folder) / "policy.onnx")
    print(dr.evaluate_policy(file, episodes=20))
