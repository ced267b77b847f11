"""URDF files as MJCF, with what MuJoCo's own conversion leaves out.

MuJoCo drops velocity limits, takes the root link for the world, and does not know `package://`. A
simulation also needs a floor, a base that moves freely, and the inertia of the rotors.
"""

from __future__ import annotations

import math
from pathlib import Path
from urllib.parse import unquote, urlparse
from xml.etree import ElementTree

import mujoco

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.untrusted_files import require_regular
from dime_robot.sim.config.draft_request import Base
from dime_robot.sim.model.adaptation import FREE, Adaptation, some
from dime_robot.sim.model.loading import mujoco_warnings
from dime_robot.sim.model.mjcf_bounds import MAX_ASSET_BYTES, parse_xml, require_bounded

WORLDS = ("world", "map", "ground")  # root links that are the world
DUMMY = 1e-4  # mass of a link that is only a frame [kg]
MESHES = (".stl", ".obj", ".msh")  # that MuJoCo reads
ARMATURE = 4e-4  # guessed, per effort of the joint [s^2]
LEAST_ARMATURE, MOST_ARMATURE, PLAIN_ARMATURE = 0.001, 0.3, 0.01  # [kg m^2 or kg]
PARENTS = 4  # folders above a URDF file in which a package's root is looked for
DRIVEN = ("revolute", "continuous", "prismatic")


def is_urdf(path: Path) -> bool:
    """Whether a file is URDF, by its root element.

    Raises:
        InputError: it is missing or not XML, or it is xacro.
    """
    if path.suffix == ".xacro":
        raise InputError(
            f"{path}: expected URDF or MJCF, got xacro; convert it: xacro {path.name} >"
            f" {path.name.split('.')[0]}.urdf"
        )
    return parse_xml(path, "a model, MJCF or URDF").tag == "robot"


def adapt_urdf(path: Path, base: Base = "auto") -> Adaptation:
    """Parse a URDF file, and add what a simulation needs.

    Args:
        path: of the file.
        base: whether the root link is fixed to the world; auto: it is if its name is that of a
            world, or if the robot is a single chain, like an arm.

    Raises:
        InputError: it is missing, beyond the bounds of `mjcf_bounds`, MuJoCo refuses it, or a mesh
            that collides is missing.
    """
    require_bounded(path)
    robot = parse_xml(path)
    if robot.tag != "robot":
        raise InputError(f"{path}: expected a URDF file with a root element robot, got {robot.tag}")
    _require_no_mimic_loop(path, robot)
    _mend_dummies(path, robot)
    dropped = _resolve_meshes(path, robot)
    extension = robot.find("mujoco")
    if extension is None:
        extension = ElementTree.SubElement(robot, "mujoco")
    compiler = extension.find("compiler")
    if compiler is None:
        compiler = ElementTree.SubElement(extension, "compiler")
    for key in ("meshdir", "texturedir", "assetdir"):
        compiler.attrib.pop(key, None)
    compiler.attrib.update(fusestatic="false", discardvisual="false", strippath="false")
    compiler.attrib.setdefault("balanceinertia", "true")
    try:
        with mujoco_warnings():
            spec = mujoco.MjSpec.from_string(ElementTree.tostring(robot, encoding="unicode"))
    except (ValueError, RuntimeError, mujoco.FatalError, mujoco.UnexpectedError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: MuJoCo cannot load it: {reason}") from None
    adaptation = Adaptation(path, spec)
    adaptation.converted = True
    adaptation.changes.append("as MJCF")
    if dropped:
        adaptation.changes.append(
            f"without visual meshes that are missing or that MuJoCo cannot read: {some(dropped)}"
        )
    _read_joints(adaptation, robot)
    _free_the_base(adaptation, robot, base)
    adaptation.name_everything()
    adaptation.add_floor()
    if not spec.cameras:
        root = spec.worldbody.first_body()
        if root is not None:
            tracking = mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM
            root.add_camera(
                name="side", mode=tracking, pos=[0, -2, 0.7], xyaxes=[1, 0, 0, 0, 0.3, 1]
            )
    return adaptation


def _require_no_mimic_loop(path: Path, robot: ElementTree.Element) -> None:
    leaders = {
        joint.get("name", ""): mimic.get("joint", "")
        for joint in robot.findall("joint")
        if (mimic := joint.find("mimic")) is not None
    }
    names = {joint.get("name", "") for joint in robot.findall("joint")}
    for name, leader in leaders.items():
        if leader not in names:
            raise InputError(
                f"{path}: joint {name}: expected mimic of a joint of the robot, got {leader!r}"
            )
        seen = {name}
        while leader in leaders:
            if leader in seen:
                raise InputError(
                    f"{path}: joint {name}: expected mimic of a joint that moves by itself, got a"
                    f" loop of joints that mimic each other: {sorted(seen)}"
                )
            seen.add(leader)
            leader = leaders[leader]


def _mend_dummies(path: Path, robot: ElementTree.Element) -> None:
    """Mend the inertia of links that are only frames: of nearly no mass, and often impossible."""
    for link in robot.findall("link"):
        for inertial in link.findall("inertial"):
            name, tensor = str(link.get("name")), inertial.find("inertia")
            if _attribute(path, f"link {name}", inertial.find("mass"), "value") > DUMMY:
                continue
            if all(
                _attribute(path, f"link {name}", tensor, key) > 0 for key in ("ixx", "iyy", "izz")
            ):
                assert tensor is not None
                tensor.attrib.update(ixy="0", ixz="0", iyz="0")
            else:
                link.remove(inertial)


def _resolve_meshes(path: Path, robot: ElementTree.Element) -> list[str]:
    """Make the names of meshes absolute; remove visual ones without a file, and return those."""
    dropped = []
    for link in robot.findall("link"):
        for kind in ("visual", "collision"):
            for element in list(link.findall(kind)):
                mesh = element.find("geometry/mesh")
                if mesh is None:
                    continue
                name = mesh.get("filename", "")
                file = _mesh_file(path, name)
                if file is not None and file.suffix.lower() in MESHES:
                    require_regular(file, f"a mesh of {path.name}", MAX_ASSET_BYTES)
                    mesh.set("filename", str(file))
                elif kind == "visual":
                    link.remove(element)
                    dropped.append(Path(name).name)
                else:
                    got = "no such file" if file is None else f"a {file.suffix} file"
                    raise InputError(
                        f"{path}: link {link.get('name')}: expected a mesh to collide,"
                        f" {' or '.join(MESHES)}, got {got}: {name}; convert it, or put the package"
                        " beside or above the URDF file"
                    )
    return list(dict.fromkeys(dropped))


def _mesh_file(path: Path, name: str) -> Path | None:
    """Return the file of a mesh: of a package beside or above the URDF file, or relative to it."""
    folder = path.parent.resolve()
    if name.startswith(("package://", "model://")):
        package, _, inner = name.split("://", 1)[1].partition("/")
        candidates = []
        for above in (folder, *folder.parents):
            candidates += [above / package / inner]
            candidates += [above / inner] if above.name == package else []
        # a package that was checked out under another name
        candidates += [above / inner for above in (folder, *list(folder.parents)[:PARENTS])]
    elif name.startswith("file://"):
        candidates = [Path(unquote(urlparse(name).path))]
    else:
        candidates = [folder / name]
    return next((file for file in candidates if file.is_file()), None)


def _read_joints(adaptation: Adaptation, robot: ElementTree.Element) -> None:
    """Read speeds and mimics, and guess armatures."""
    spec = adaptation.spec
    joints = {joint.name: joint for joint in spec.joints}
    coupled = {equality.name1 for equality in spec.equalities}
    guessed = []
    for element in robot.findall("joint"):
        name, kind = element.get("name", ""), element.get("type")
        joint = joints.get(name)
        if joint is None or kind not in DRIVEN:
            continue
        limit = element.find("limit")
        effort = _attribute(adaptation.path, f"joint {name}", limit, "effort")
        speed = _attribute(adaptation.path, f"joint {name}", limit, "velocity")
        if speed > 0:
            adaptation.speeds[name] = speed
        if joint.armature == 0:
            wanted = ARMATURE * effort if 0 < effort < 1e5 else PLAIN_ARMATURE
            joint.armature = round(min(max(wanted, LEAST_ARMATURE), MOST_ARMATURE), 5)
            guessed.append(name)
        mimic = element.find("mimic")
        if mimic is not None and name not in coupled:
            coupling = spec.add_equality(
                type=mujoco.mjtEq.mjEQ_JOINT, objtype=mujoco.mjtObj.mjOBJ_JOINT,
                name1=name, name2=mimic.get("joint", ""),
            )  # fmt: skip
            factor = _attribute(adaptation.path, f"joint {name}", mimic, "multiplier", 1.0)
            offset = _attribute(adaptation.path, f"joint {name}", mimic, "offset")
            coupling.data[:5] = [offset, factor, 0, 0, 0]
    if guessed:
        adaptation.guesses.append(
            f"armature of {len(guessed)} joints, {ARMATURE:g} s^2 of their effort: URDF has none"
        )


def _attribute(
    path: Path, where: str, element: ElementTree.Element | None, key: str, default: float = 0.0
) -> float:
    """Return a number of the file; `where` and `key` are its place, for the message."""
    text = None if element is None else element.get(key)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{path}: {where}: expected a number as {key}, got {text!r:.40}")
    return value


def _free_the_base(adaptation: Adaptation, robot: ElementTree.Element, base: Base) -> None:
    """Let the root link move freely, unless it is fixed to the world."""
    spec = adaptation.spec
    if any(joint.type == FREE for joint in spec.joints):
        return
    children = {child.get("link") for child in robot.findall("joint/child")}
    roots = [
        str(link.get("name")) for link in robot.findall("link") if link.get("name") not in children
    ]
    named = bool(roots) and roots[0].lower() in WORLDS
    legs = _legs(robot)
    if named and base != "floating":
        return
    if base == "fixed" or (base == "auto" and legs < 2):
        if base == "auto":
            adaptation.guesses.append(
                f"{roots[0] if roots else 'the root link'} is fixed to the world, since the robot"
                " is a single chain (--base floating if it is not)"
            )
        return
    body = spec.body(roots[0]) if roots and not named else spec.worldbody.first_body()
    if body is None or body.name == "world":
        raise InputError(
            f"{adaptation.path}: expected a root link that can move freely, got {roots}: use --base"
            " fixed"
        )
    body.add_freejoint(name="base_free")
    adaptation.changes.append(f"with {body.name} moving freely")
    if base == "auto":
        adaptation.guesses.append(
            f"{body.name} moves freely, since the robot has {legs} limbs (--base fixed if it is"
            " bolted down)"
        )


def _legs(robot: ElementTree.Element) -> int:
    """Return the number of limbs: ends of the tree with at least two moving joints each."""
    upwards: dict[str, tuple[str, bool]] = {}
    parents = set()
    for joint in robot.findall("joint"):
        parent, child = joint.find("parent"), joint.find("child")
        if parent is None or child is None:
            continue
        above = str(parent.get("link"))
        moves = joint.get("type") in DRIVEN and joint.find("mimic") is None
        upwards[str(child.get("link"))] = (above, moves)
        parents.add(above)
    limbs = set()  # by their second moving joint from the root: fingers are no limbs of their own
    for leaf in upwards.keys() - parents:
        chain, link, seen = [], leaf, set()
        while link in upwards and link not in seen:
            seen.add(link)
            above, moves = upwards[link]
            chain += [link] if moves else []
            link = above
        if len(chain) > 1:
            limbs.add(chain[-2])
    return len(limbs)
