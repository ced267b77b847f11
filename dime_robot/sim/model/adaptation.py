"""Adaptation: a copy of a user's model with what it lacks. The model itself is never changed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from xml.etree import ElementTree

import mujoco

from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.model.loading import mujoco_warnings
from dime_robot.sim.model.mjcf_bounds import require_bounded

FILE_FOLDERS = ("meshdir", "texturedir", "assetdir")  # of the element <compiler>
FREE = mujoco.mjtJoint.mjJNT_FREE


class Adaptation:
    """A model that can be changed before it is written.

    Args:
        path: of the user's model.
        spec: parsed from it.

    Attributes:
        converted: whether it was no MJCF.
        changes: what differs from the user's model, one phrase each; empty: nothing.
        speeds: joint -> largest speed, where the file says so [rad/s or m/s].
        guesses: what was guessed in the model, one phrase each.
    """

    def __init__(self, path: Path, spec: mujoco.MjSpec) -> None:
        self.path, self.spec = path, spec
        self.converted = False
        self.changes: list[str] = []
        self.guesses: list[str] = []
        self.speeds: dict[str, float] = {}

    def drop_missing_files(self) -> None:
        """Leave out visual meshes and textures whose files are missing.

        Raises:
            InputError: a missing mesh collides, or gives a body its mass.
        """
        spec = self.spec
        base = Path(spec.modelfiledir) if spec.modelfiledir else self.path.parent
        gone = [m for m in spec.meshes if m.file and not _file(base, spec.meshdir, m.file, spec)]
        names = {mesh.name for mesh in gone}
        used = [geom for geom in spec.geoms if geom.meshname in names]
        for geom in used:
            needed = "to collide" if geom.contype or geom.conaffinity else ""
            if not geom.parent.explicitinertial and geom.parent.name != "world":
                needed = needed or f"for the mass of {geom.parent.name or 'its body'}"
            if needed:
                file = next(mesh.file for mesh in gone if mesh.name == geom.meshname)
                raise InputError(
                    f"{self.path}: expected the mesh {file}, which is needed {needed}, got no such"
                    " file; put it there, or use primitive shapes instead"
                )
        if gone:
            files = [Path(mesh.file).name for mesh in gone]
            self.changes.append(f"without the missing visual meshes {some(files)}")
        for thing in (*used, *gone):
            spec.delete(thing)
        lost = [
            texture
            for texture in spec.textures
            if texture.file and not _file(base, spec.texturedir, texture.file, spec)
        ]
        for material in spec.materials:
            wanted = {texture.name for texture in lost}
            if wanted & set(material.textures):
                material.textures = ["" if t in wanted else t for t in material.textures]
        for texture in lost:
            spec.delete(texture)
        if lost:
            self.changes.append("without missing textures")

    def name_everything(self) -> None:
        """Name joints, and bodies that move freely, where they have no name."""
        spec, named = self.spec, []
        taken = {joint.name for joint in spec.joints} | {body.name for body in spec.bodies}
        for joint in spec.joints:
            body = joint.parent
            if joint.type == FREE:
                if not body.name:
                    body.name = _unused("base", taken)
                    named.append(f"body {body.name}")
            elif not joint.name:
                joint.name = _unused(f"{body.name}_joint" if body.name else "joint", taken)
                named.append(f"joint {joint.name}")
        if named:
            self.changes.append(f"with names: {some(named)}")

    def add_floor(self) -> None:
        """Add a floor, unless nothing moves freely or the world has something to stand on."""
        spec = self.spec
        if not any(joint.type == FREE for joint in spec.joints):
            return
        touching = [geom for geom in spec.geoms if geom.contype or geom.conaffinity]
        if any(_is_fixed(geom.parent) for geom in touching):
            return
        plane = mujoco.mjtGeom.mjGEOM_PLANE
        name = _unused("floor", {geom.name for geom in spec.geoms})
        floor = spec.worldbody.add_geom(name=name, type=plane, size=[0, 0, 0.05])
        # touched by all that touches anything, also by links that do not touch one another
        floor.contype = reduce(or_, (geom.conaffinity for geom in touching), 0)
        floor.conaffinity = reduce(or_, (geom.contype for geom in touching), 0)
        if not spec.lights:
            spec.worldbody.add_light(pos=[0, 0, 3], dir=[0, 0, -1])
        self.changes.append("with a floor")

    def stand(self, body: str, height: float) -> None:
        """Let a body start at a height.

        Args:
            body: that moves freely.
            height: of its origin above the world's [m].
        """
        self.spec.body(body).pos[2] = height
        self.changes.append(f"with {body} {height:g} m above the floor")

    def add_site(self, body: str, name: str) -> None:
        """Add a site at the origin of a body.

        Args:
            body: of the model.
            name: of the site.
        """
        self.spec.body(body).add_site(name=name)
        self.changes.append(f"with a site {name} on {body}")

    def exclude(self, pairs: list[tuple[str, str]]) -> None:
        """Disable the contact of bodies that overlap.

        Args:
            pairs: names of the bodies.
        """
        for first, second in pairs:
            self.spec.add_exclude(bodyname1=first, bodyname2=second)
        if pairs:
            self.changes.append(f"without {len(pairs)} contacts of links that overlap")

    def compiled(self) -> mujoco.MjModel:
        """Compile the model as it is now.

        Raises:
            InputError: MuJoCo refuses it.
        """
        try:
            with mujoco_warnings():
                return self.spec.compile()
        except (ValueError, RuntimeError, mujoco.FatalError, mujoco.UnexpectedError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{self.path}: MuJoCo cannot load it: {reason}") from None

    def text(self, folder: Path) -> str:
        """Return the model as MJCF that finds its files from a folder.

        Args:
            folder: into which it is going to be written.
        """
        self.compiled()
        root = ElementTree.fromstring(self.spec.to_xml())
        own, target = self.path.parent.resolve(), folder.resolve()
        compiler = root.find("compiler")
        if compiler is None:
            compiler = ElementTree.Element("compiler")
            root.insert(0, compiler)
        named = [element for element in root.iter() if element.get("file")]
        relative = [e for e in named if not Path(e.get("file", "")).is_absolute()]
        for element in named:
            if element not in relative:
                element.set("file", os.path.relpath(element.get("file", ""), target))
        if relative and own != target:
            shared = compiler.attrib.pop("assetdir", "")
            for kind in ("meshdir", "texturedir"):
                compiler.set(kind, os.path.relpath(own / compiler.get(kind, shared), target))
        elif not relative:
            for kind in FILE_FOLDERS:
                compiler.attrib.pop(kind, None)
        what = "; ".join(self.changes).replace("--", "-")
        comment = f"<!-- {self.path.name.replace('--', '-')} {what} -->\n"
        return comment + ElementTree.tostring(root, encoding="unicode") + "\n"


def adapt_mjcf(path: Path) -> Adaptation:
    """Parse an MJCF file, and add what a simulation needs.

    Args:
        path: of the file.

    Raises:
        InputError: it is missing, beyond the bounds of `mjcf_bounds`, MuJoCo refuses it, or a
            needed mesh is missing.
    """
    require_bounded(path)
    try:
        with mujoco_warnings():
            spec = mujoco.MjSpec.from_file(str(path))
    except (ValueError, RuntimeError, mujoco.FatalError, mujoco.UnexpectedError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: MuJoCo cannot load it: {reason}") from None
    adaptation = Adaptation(path, spec)
    adaptation.drop_missing_files()
    adaptation.name_everything()
    adaptation.add_floor()
    return adaptation


def completed(path: Path, folder: Path) -> tuple[Path, list[str]]:
    """Return a model that can be simulated: the file itself, or a copy with what it lacks.

    Args:
        path: of an MJCF file, such as a robot without a floor or without its visual meshes.
        folder: for the copy; made if one is needed.

    Returns:
        The file, and what differs from the user's model, one phrase each.

    Raises:
        InputError: as `adapt_mjcf`.
    """
    adaptation = adapt_mjcf(path)
    if not adaptation.changes:
        return path, []
    folder.mkdir(parents=True)
    copy = folder / path.name
    copy.write_text(adaptation.text(folder), encoding="utf-8")
    return copy, adaptation.changes


def some(names: Sequence[str], count: int = 3) -> str:
    """Return the first names of a list, as a part of a sentence.

    Args:
        names: all of them.
        count: how many are named.
    """
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest


def _file(base: Path, folder: str, name: str, spec: mujoco.MjSpec) -> Path | None:
    """Return the existing file that a name in a model means; None: there is none."""
    inner = Path(name).name if spec.strippath else name
    candidates = (base / folder / inner, base / inner)
    return next((path for path in candidates if path.is_file()), None)


def _unused(name: str, taken: set[str]) -> str:
    """Return a name that is not taken, and take it."""
    chosen, number = name, 1
    while chosen in taken:
        number += 1
        chosen = f"{name}{number}"
    taken.add(chosen)
    return chosen


def _is_fixed(body: mujoco.MjsBody) -> bool:
    return not any(True for each in _upwards(body) if each.joints)


def _upwards(body: mujoco.MjsBody) -> Iterator[mujoco.MjsBody]:
    while body is not None and body.name != "world":
        yield body
        body = body.parent
