"""Read a flight recording into pandas; without a file, record the simulated cart-pole.

python examples/flight_recording_as_a_data_frame.py [flight.npz]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from dime_robot import Controller, OnnxPolicy
from dime_robot.runtime.control.flight_recorder import read_recording
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.plant.plant import make_plant
from dime_robot.sim.tasks.task import Task


def made(folder: Path) -> Path:
    """Record five simulated seconds of the shipped policy, as policy_node does."""
    config, model = load_robot_task("cartpole")
    plant = make_plant(config, model)
    Task(config, plant).start(np.random.default_rng(0))
    controller = Controller(OnnxPolicy("results/sim-cartpole.onnx"), config.robot)
    controller.start(0.0, plant.state())
    for step in range(250):
        decision = controller.step(step / 50, plant.state(), simulated=True)
        controller.record(decision)
        plant.command(decision.command)
        plant.advance(config.sim.decimation)
    dump = controller.recorder.dump(folder, "example")
    controller.recorder.wait(10.0)
    return dump.path


def data_frame(path: Path) -> pd.DataFrame:
    """Return one row per step, one column per number; vector columns have an index as suffix."""
    records = read_recording(path).records
    columns = {}
    for name in records.dtype.names:
        values = records[name].reshape(len(records), -1)
        for i in range(values.shape[1]):
            columns[name if values.shape[1] == 1 else f"{name}_{i}"] = values[:, i]
    return pd.DataFrame(columns)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        frame = data_frame(Path(sys.argv[1]) if len(sys.argv) > 1 else made(Path(folder)))
    print(frame[["time", "joint_position_0", "joint_position_1", "command", "rung"]].tail())
