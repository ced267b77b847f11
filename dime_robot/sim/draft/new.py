"""Drafting a configuration from a robot's model, up to a file that the check accepts."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dime_robot.runtime.contract.units import MAX_DAMPING, MAX_STIFFNESS
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.draft_request import DraftRequest, TaskName
from dime_robot.sim.draft.configuration import RATE, Names, Steps, configuration
from dime_robot.sim.draft.tasks import require_task_fits, usual_task
from dime_robot.sim.examination import examine
from dime_robot.sim.model.adaptation import Adaptation, adapt_mjcf, some
from dime_robot.sim.model.menagerie import PREFIX, menagerie_model
from dime_robot.sim.model.soundness import unsound
from dime_robot.sim.model.survey import SAG, Estimate, Survey, significant, survey
from dime_robot.sim.model.urdf import adapt_urdf, is_urdf
from dime_robot.sim.pose_check import MAX_ERROR, PoseResult

SITE = "end_effector"  # that is added where the model has none
SCENES = re.compile(r"scene(_.*)?|mjx_scene", re.IGNORECASE)  # files that are not named for a robot
SINK = 0.02  # of a base that starts below the ground [m]
SMALLER = 0.001  # time step, where the model's own is too large for its gains [s]
RAISES = 4  # trials with the stiffness of one more joint raised
MOST_RAISED = 10.0  # factor at once
UNFIT = re.compile(r"[^A-Za-z0-9_.-]+")  # of file names


@dataclass
class Draft:
    """A configuration that was written, and what to know about it."""

    path: Path  # of the configuration
    model: Path  # that it names
    task: TaskName
    found: Survey
    changes: list[str]  # of the model, if a copy was written
    guesses: dict[str, str]  # place in the file -> why it is only guessed
    model_guesses: list[str]  # in the copy of the model, one phrase each
    warnings: list[str] = field(default_factory=list)  # one phrase each
    summary: list[str] = field(default_factory=list)  # of the check


def draft(request: DraftRequest) -> Draft:
    """Write a configuration, and a copy of the model where it needs changes.

    Nothing is written unless the check accepts the configuration. The model itself is never
    changed.

    Args:
        request: what is asked for.

    Raises:
        InputError: why there is no configuration that the check would accept.
    """
    source = _source(request.model)
    name = _name(request, source)
    path = request.output or Path(f"{name}.yaml")
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"--output: expected a .yaml file, got {path}")
    copy = path.with_suffix(".xml")
    if copy.exists() and copy.samefile(source):  # drafted beside the model
        copy = path.with_name(f"{path.stem}_sim.xml")
    adaptation = adapt_urdf(source, request.base) if is_urdf(source) else adapt_mjcf(source)
    found = _survey(adaptation, request.only)
    task = request.task or usual_task(found)
    require_task_fits(source, found, task)
    site = _prepare(adaptation, found, task)
    changed = bool(adaptation.changes)
    written = (path, copy) if changed else (path,)
    for file in written:
        if file.exists() and not request.force:
            raise InputError(f"{file}: expected no such file, got one: --force replaces it")
        if file.exists() and file.samefile(source):
            raise InputError(f"{file}: expected another name than that of the robot's own model")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: expected a folder for {path.name}, got none")
    result = Draft(
        path=path,
        model=copy if changed else source,
        task=task,
        found=found,
        changes=adaptation.changes,
        guesses={},
        model_guesses=adaptation.guesses,
        warnings=[*found.warnings, *_overlaps(adaptation, found)],
    )
    frame = found.root or "base"
    trial = path.with_name(f".{path.stem}.new.yaml"), path.with_name(f".{path.stem}.new.xml")
    try:
        if changed:
            trial[1].write_text(adaptation.text(path.parent), encoding="utf-8")
        tried = Names(name, trial[1].name if changed else _relative(source, path), site, frame)
        steps, result.summary = _accepted(found, tried, task, trial[0], (path, copy), source)
        final = Names(name, copy.name if changed else tried.model, site, frame)
        text = configuration(found, final, task, steps, request.model)
        result.guesses = text.guesses
        if changed:
            trial[1].replace(copy)
        trial[0].write_text(str(text), encoding="utf-8")
        trial[0].replace(path)
    finally:
        for file in trial:
            file.unlink(missing_ok=True)
    return result


def _source(model: str) -> Path:
    if model.startswith(PREFIX):
        return menagerie_model(model)
    path = Path(model)
    if path.suffix.lower() in (".yaml", ".yml"):
        raise InputError(f"{path}: expected a model, MJCF or URDF, got a configuration")
    return path


def _name(request: DraftRequest, source: Path) -> str:
    """Return the name of policy, robot and file."""
    if request.name is not None:
        if not request.name.isprintable() or UNFIT.search(request.name):
            raise InputError(f"--name: expected letters, digits, _ . and -, got {request.name!r}")
        return request.name
    if request.output is not None:
        return UNFIT.sub("_", request.output.stem) or "robot"
    folder = source.resolve().parent.name
    stem = folder if SCENES.fullmatch(source.stem) and folder else source.stem
    return UNFIT.sub("_", stem).strip("._-") or "robot"


def _relative(model: Path, path: Path) -> str:
    """Return a model's path as the configuration names it."""
    inside = Path(os.path.relpath(model.resolve(), path.parent.resolve()))
    return str(model.resolve()) if len(inside.parts) > 8 else inside.as_posix()


def _survey(adaptation: Adaptation, only: str | None) -> Survey:
    model = adaptation.compiled()
    problems = unsound(model)
    if problems:
        raise InputError(f"{adaptation.path}: {problems[0]}")
    return survey(adaptation.path, model, only, adaptation.speeds)


def _prepare(adaptation: Adaptation, found: Survey, task: TaskName) -> str:
    """Add what the survey misses; return the site at the end effector."""
    base, height, start = found.free_base, found.height, found.start
    if base is not None and height is not None and (start or 0.0) < height.value - SINK:
        adaptation.stand(base, height.value)
    if adaptation.converted:
        adaptation.exclude(found.overlaps)
    if task != "reach":
        return ""
    if found.end.site is not None:
        return found.end.site
    adaptation.add_site(found.end.body, SITE)
    return SITE


def _overlaps(adaptation: Adaptation, found: Survey) -> Iterator[str]:
    if found.overlaps and not adaptation.converted:
        pairs = [" and ".join(pair) for pair in found.overlaps]
        yield f"links that overlap in the default pose: {', '.join(pairs[:4])}"


def _accepted(
    found: Survey,
    names: Names,
    task: TaskName,
    path: Path,
    final: tuple[Path, Path],
    source: Path,
) -> tuple[Steps, list[str]]:
    """Find steps with which the check accepts the configuration; return them and its summary.

    Args:
        found: the robot.
        names: of things.
        task: of the configuration.
        path: for the trials.
        final: configuration and copy of the model, for messages.
        source: the robot's own model.

    Raises:
        InputError: there are none; with the first problem of the last trial.
    """
    problems: list[str] = []
    for steps in _steps(found.timestep):
        for _ in range(RAISES):
            path.write_text(str(configuration(found, names, task, steps, "")), encoding="utf-8")
            result = examine(str(path))
            if not result.problems:
                return steps, [_as_called(line, path, final) for line in result.summary]
            problems = result.problems
            if result.pose is None or not _stiffened(found, result.pose):
                break
    # the copy is not kept, so the message names the model that it is of
    problem = _as_called(problems[0], path, (final[0], source))
    more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
    raise InputError(f"{problem}{more}")


def _stiffened(found: Survey, pose: PoseResult) -> bool:
    """Raise the stiffness of the joint that sags most; return whether that may help."""
    joint = next((each for each in found.joints if each.name == pose.error_joint), None)
    if joint is None or not pose.error > MAX_ERROR:
        return False
    before = joint.stiffness
    if before.value * pose.error >= joint.effort.value:  # the drive gives all that it has
        return False
    factor = min(pose.error / SAG, MOST_RAISED)
    raised = significant(before.value * factor, 2, up=True)
    if not 0 < raised <= MAX_STIFFNESS:
        return False
    why = f"with {before.value:g} it sags {pose.error:.2g} in the simulation"
    damping = significant(joint.damping.value * math.sqrt(factor), 2, up=True)
    joint.stiffness = Estimate(raised, why)
    joint.damping = Estimate(min(damping, MAX_DAMPING), why)
    return True


def _as_called(line: str, trial: Path, final: tuple[Path, Path]) -> str:
    """Return a line of the check with the names of the files instead of those of the trial."""
    for file, real in ((trial, final[0]), (trial.with_suffix(".xml"), final[1])):
        line = line.replace(str(file), str(real)).replace(file.name, real.name)
    return line


def _steps(timestep: float) -> Iterator[Steps]:
    """Yield ways to simulate a control step, the most usual first."""
    period = 1 / RATE
    decimation = max(1, round(period / timestep)) if timestep > 0 else 10
    own = abs(decimation * timestep - period) < 1e-9
    if not own:
        decimation = min(max(4, -int(-period // timestep)), 200)
    used = timestep if own else round(period / decimation, 7)
    why = "the model's own" if own else f"near the model's {timestep:g}, a part of the period"
    yield Steps(used, decimation, "explicit", why)
    yield Steps(used, decimation, "implicit", why)
    if used > SMALLER:
        why = "smaller than the model's, for the sake of its gains"
        yield Steps(SMALLER, round(period / SMALLER), "implicit", why)


def _section(place: str) -> tuple[str, str]:
    """Return the section of a place that is one of many alike, and its last part."""
    for section, table in (
        ("policy", "joint_defaults"),
        ("robot", "joint_defaults"),
        ("sim", "hold"),
    ):
        if place.startswith(f"{section}.{table}."):
            return section if table != "hold" else f"{section}.hold", place.rpartition(".")[2]
    return "", "policy.held_joints" if place.startswith("policy.held_joints.") else place


def lines(result: Draft) -> list[str]:
    """Return what to tell about a draft, in lines: known, guessed, troubling, what to do next."""
    found, path = result.found, result.path
    moved, held, free = (found.of_role(role) for role in ("moved", "held", "free"))
    output = [f"wrote    {path}" + (f" and {result.model}" if result.changes else "")]
    if result.changes:
        output.append(f"         the model {', '.join(result.changes)}")
    base = f"free base {found.free_base}" if found.free_base else "fixed base"
    output.append(
        f"known    {len(moved)} joints that the policy moves, {len(held)} held, {len(free)}"
        f" passive; {base}"
    )
    if found.keyframe is not None:
        output.append(f"         default pose: keyframe {found.keyframe}")
    if found.feet:
        output.append(f"         stands on {', '.join(found.feet)}")
    reasons: dict[str, list[str]] = {}
    for place, why in result.guesses.items():
        section, last = _section(place)
        reasons.setdefault(why, []).append(f"{section}: {last}" if section else last)
    label = "guessed"
    for guess in result.model_guesses:
        output.append(f"{label:<8} {result.model.name}: {guess}")
        label = ""
    for why, places in reasons.items():
        output.append(f"{label:<8} {some(list(dict.fromkeys(places)))}: {why}")
        label = ""
    label = "look at"
    for warning in result.warnings:
        output.append(f"{label:<8} {warning}")
        label = ""
    output += result.summary
    output.append(f"next     read {path}, above all the lines with # ?, then:")
    output.append(f"         python -m dime_robot.config check {path}")
    if result.task != "none":
        output.append(f"         python -m dime_robot.train --config {path}")
    else:
        output.append("         add a section task:, or draft again with --task")
    return output
