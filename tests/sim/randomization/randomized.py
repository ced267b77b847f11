"""Randomised robots for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.sim.config.randomization import RandomKind, RandomTerm
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.plant.drive import PositionDrive
from dime_robot.sim.plant.plant import Plant, make_plant
from dime_robot.sim.randomization.randomizer import Randomizer

CONFIG, MODEL = load_robot_task("go2")
SPEC = CONFIG.policy
POSE = {joint.name: joint.default_position for joint in SPEC.joints}
FEET = ("FL_foot", "FR_foot", "RL_foot", "RR_foot")
Array = np.ndarray[Any, np.dtype[np.float64]]


def go2() -> Plant:
    return make_plant(CONFIG, MODEL)


def term(
    kind: RandomKind, operation: str, range: tuple[float, float], mode: str = "reset", **more: Any
) -> RandomTerm:
    return RandomTerm.model_validate(
        {"kind": kind, "operation": operation, "range": range, "mode": mode, **more}
    )


def started(plant: Plant, *terms: RandomTerm, spec: PolicySpec = SPEC) -> Randomizer:
    randomizer = Randomizer(terms, spec, plant)
    randomizer.startup(np.random.default_rng(7))
    randomizer.reset(np.random.default_rng(8))
    return randomizer


def drive_of(plant: Plant) -> PositionDrive:
    assert plant.drive is not None
    return plant.drive
