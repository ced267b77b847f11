"""Bounds on MJCF files, checked before MuJoCo compiles them.

A few bytes can request any number of bodies or pixels, and a file can be a pipe: MuJoCo would take
hours, use all memory, or wait for ever.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.untrusted_files import read_bytes, require_regular

MAX_BYTES = 16 * 2**20  # of an MJCF file
MAX_ASSET_BYTES = 256 * 2**20  # of a mesh, a texture, a height field
MAX_ASSETS_BYTES = 1024 * 2**20  # of all of them
MAX_FILES = 100  # of a model, with includes
MAX_ELEMENTS = 10_000  # with the copies of replicate, composite and flexcomp
MAX_PIXELS = 64 * 2**20  # of a generated texture, a height field
MAX_NUMBERS = 10_000_000  # reserved by <size>
MAX_MEMORY = 2**30  # bytes reserved by <size>
MAX_VALUES = {  # of attributes that determine how much MuJoCo allocates
    "dim": 10_000,
    "actdim": 10_000,
    "nsample": 10_000,
    "params": 1_000,
    "resolution": 8_192,
}
_MULTIPLES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50, "E": 2**60}
_FOLDERS = ("assetdir", "meshdir", "texturedir")


_COMMENT = re.compile(r"""("[^"]*"|'[^']*')|<!--.*?-->""", re.DOTALL)


@dataclass
class _Counts:
    """Counts of a model so far."""

    root: Path  # its main file
    elements: int = 0  # with copies
    asset_bytes: int = 0
    files: set[Path] = field(default_factory=set)
    assets: set[Path] = field(default_factory=set)
    folders: dict[str, None] = field(default_factory=lambda: {"": None})  # of assets


def require_bounded(path: Path) -> None:
    """Refuse a model that would exhaust this machine, or names something that is not a file.

    Args:
        path: MJCF file; its includes are checked too.

    Raises:
        InputError: it is missing, not XML, or beyond the bounds above.
    """
    _require_file_bounded(path, _Counts(path), 1)


def files_of(path: Path) -> list[Path]:
    """Return a model's file, its includes, and the meshes and other files that they name.

    Args:
        path: MJCF file.

    Raises:
        InputError: as `require_bounded`.
    """
    counts = _Counts(path)
    _require_file_bounded(path, counts, 1)
    return sorted(counts.files | counts.assets)


def _require_file_bounded(path: Path, counts: _Counts, copies: int) -> None:
    """Check one file, each of whose elements is copied `copies` times."""
    counts.files.add(path)
    if len(counts.files) > MAX_FILES:
        raise InputError(
            f"{counts.root}: expected up to {MAX_FILES} files that it includes, got more"
        )
    root = parse_xml(path)
    for element in root.iter():
        counts.folders |= {element.get(key, ""): None for key in _FOLDERS}
    waiting = [(root, copies)]
    while waiting:
        element, copies = waiting.pop()
        if element.tag in ("replicate", "composite", "flexcomp"):
            copies *= math.prod(max(1, number) for number in _numbers(element, "count"))
        counts.elements += copies
        if counts.elements > MAX_ELEMENTS:
            raise InputError(
                f"{path}: expected a model of up to {MAX_ELEMENTS:,} elements, copies counted, got"
                f" more by its {element.tag:.60}"
            )
        _require_sizes(path, element)
        _require_files(path, element, counts, copies)
        waiting += [(inner, copies) for inner in element]


def parse_xml(path: Path, what: str = "an MJCF model") -> ElementTree.Element:
    """Parse one file of a model; its bounds are checked by `require_bounded`.

    Args:
        path: MJCF or URDF file.
        what: is expected, for messages.

    Raises:
        InputError: it is missing, not XML, or has a document type.
    """
    text = read_bytes(path, what, MAX_BYTES).decode("utf-8-sig", "replace")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(f"{path}: expected MJCF without a document type, got one: remove it")
    # MuJoCo accepts comments that contain --, which XML does not
    without_comments = _COMMENT.sub(lambda found: found[1] or "", text)
    try:
        return ElementTree.fromstring(without_comments)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{path}: MuJoCo cannot load it: {error}") from None


def _require_files(path: Path, element: ElementTree.Element, counts: _Counts, copies: int) -> None:
    for name in (value for key, value in element.items() if key.startswith("file") and value):
        for other in _candidates(path, counts, name):
            if element.tag in ("include", "model"):
                if other not in counts.files:
                    _require_file_bounded(other, counts, copies)
            else:
                _require_asset(other, counts)


def _candidates(path: Path, counts: _Counts, name: str) -> list[Path]:
    """Return the existing files that a name may mean to MuJoCo."""
    bases, names = dict.fromkeys([counts.root.parent, path.parent]), {name: None}
    names[Path(name).name] = None  # for models with strippath
    found = [base / folder / one for base in bases for folder in counts.folders for one in names]
    return [path for path in dict.fromkeys(found) if path.exists() and not path.is_dir()]


def _require_asset(path: Path, counts: _Counts) -> None:
    if path in counts.assets:
        return
    counts.assets.add(path)
    what = f"a file of the model {counts.root.name}"
    counts.asset_bytes += require_regular(path, what, MAX_ASSET_BYTES)
    if counts.asset_bytes > MAX_ASSETS_BYTES:
        raise InputError(
            f"{counts.root}: expected files of up to {MAX_ASSETS_BYTES:,} bytes in all, got more"
        )


def _require_sizes(path: Path, element: ElementTree.Element) -> None:
    """Refuse elements that need more memory than a robot's model."""
    if element.tag in ("texture", "hfield"):
        keys = ("width", "height") if element.tag == "texture" else ("nrow", "ncol")
        pixels = math.prod(max(1, number) for key in keys for number in _numbers(element, key))
        if pixels > MAX_PIXELS:
            raise InputError(
                f"{path}: expected a {element.tag} of up to {MAX_PIXELS:,} points, got {pixels:,}"
            )
    limits = MAX_VALUES
    if element.tag == "size":
        limits = {key: MAX_MEMORY if key == "memory" else MAX_NUMBERS for key in element.attrib}
    for key in element.attrib.keys() & limits.keys():
        for number in _numbers(element, key):
            if number > limits[key]:
                raise InputError(
                    f"{path}: {element.tag}: expected {key} up to {limits[key]:,}, got {number:,}"
                )


def _numbers(element: ElementTree.Element, key: str) -> list[int]:
    """Return the whole numbers of an attribute; MuJoCo reports what is not a number."""
    numbers = []
    for word in element.get(key, "").split()[:10]:
        factor = _MULTIPLES.get(word[-1:].upper(), 1)
        try:
            number = float(word[:-1] if factor > 1 else word)
        except ValueError:
            continue
        if math.isfinite(number):
            numbers.append(int(number) * factor)
    return numbers
