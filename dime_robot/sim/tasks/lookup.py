"""Finds the function or class that a term names, and validates its parameters.

A name without a colon is one of ours, or an entry point of the group `dime_robot.terms` of an
installed package. FILE.py:NAME is beside the configuration, MODULE:NAME in an installed package.

Both are the user's own code, and importing it runs it. It is imported only for a file that the user
typed (`sim/config/trust.py`), so that no policy, checkpoint or run folder can choose code.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import ValidationError, create_model

from dime_robot.runtime.contract.policy_spec import StrictModel
from dime_robot.runtime.io.errors import InputError, first_problem, in_one_line
from dime_robot.runtime.io.untrusted_files import read_bytes
from dime_robot.sim.config import trust
from dime_robot.sim.config.task import GROUP, TermConfig
from dime_robot.sim.tasks import (
    commands,
    metrics,
    observations,
    privileged,
    resets,
    rewards,
    success,
    terminations,
)

OURS: dict[str, ModuleType] = {  # section -> the module with its terms
    "reset": resets,
    "commands": commands,
    "observations": observations,
    "rewards": rewards,
    "terminations": terminations,
    "success": success,
    "metrics": metrics,
    "privileged": privileged,
}
MAX_BYTES = 1024 * 1024  # of a file of own terms
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*\.py")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
Term = Callable[..., Any]


def is_own(term: str, section: str) -> bool:
    """Whether a term is not one of ours.

    Args:
        term: its name.
        section: in which it is used.
    """
    return term not in our_terms(section)


def our_terms(section: str) -> list[str]:
    """Return the names of our own terms for a section."""
    module = OURS[section]
    return [
        name
        for name, item in vars(module).items()
        if not name.startswith("_") and getattr(item, "__module__", "") == module.__name__
    ]


def find(section: str, entry: TermConfig, source: Path) -> Term:
    """Return the function or class that an entry names.

    Args:
        section: of the task.
        entry: of the term.
        source: path of the configuration.

    Raises:
        InputError: there is none of this name, its import fails, or it may not be imported.
    """
    name = entry.term
    if not is_own(name, section):
        found: Term = getattr(OURS[section], name)
        return found
    place, _, attribute = name.rpartition(":")
    if not place and not _entry_point(name):
        raise InputError(
            f"expected one of {our_terms(section)}, FILE.py:NAME beside {source.name}, MODULE:NAME"
            f" or an entry point of the group {GROUP}, got {name!r}"
        )
    if not trust.is_allowed(source):
        raise InputError(
            f"{name} is code of the user's own, which is imported only for a file that is typed:"
            f" --config {source}"
        )
    if not place:
        return _callable(name, _imported(name, lambda: _entry_point(name)[0].load()))
    if not _NAME.fullmatch(attribute):
        raise InputError(f"expected the name of a function after the colon, got {name!r}")
    if place.endswith(".py"):
        module = _module_of(_own_file(place, source))
    elif _NAME.fullmatch(place):
        module = _imported(name, lambda: importlib.import_module(place))
    else:
        raise InputError(f"expected FILE.py:NAME or MODULE:NAME, got {name!r}")
    item: Any = module
    for part in attribute.split("."):
        if not hasattr(item, part):
            known = [n for n in vars(module) if not n.startswith("_")]
            raise InputError(f"expected a function or class of {place}, {known}, got {attribute!r}")
        item = getattr(item, part)
    return _callable(name, item)


def unit_of(term: Term) -> str:
    """Return the unit at the end of the first sentence of a term's docstring; empty: none, or 1.

    Args:
        term: function or class.
    """
    first = (inspect.getdoc(term) or "").partition("\n\n")[0]
    found = re.search(r"\[([^\[\]]{1,40})\]\.?$", " ".join(first.split()))
    return found[1] if found and found[1] != "1" else ""


def own_files(entries: list[tuple[str, str, TermConfig]], source: Path) -> list[Path]:
    """Return the files of own terms that a task names, without importing them.

    Args:
        entries: of the task.
        source: path of its configuration.

    Raises:
        InputError: a file is missing or not beside the configuration.
    """
    places = (entry.term.rpartition(":")[0] for _, _, entry in entries)
    return sorted({_own_file(place, source) for place in places if place.endswith(".py")})


def bound(term: Term, parameters: dict[str, Any], view: object) -> Callable[[], Any]:
    """Return a call of a term with its parameters, which have been validated.

    A function is called with the view and its parameters at every step; a class is made once with
    them and then called with the view.

    Args:
        term: function or class.
        parameters: by name.
        view: what the term reads.

    Raises:
        InputError: a parameter is missing, unknown or invalid, or the signature is not a term's.
    """
    values = validated(term, parameters)
    if inspect.isclass(term):
        made: Any = term(view, **values)  # type: ignore[call-arg]
        if not callable(made):
            raise InputError(f"expected a class with a method __call__(self, view), got {term!r}")
        return functools.partial(made, view)
    return functools.partial(term, view, **values)


def _own_file(place: str, source: Path) -> Path:
    folder = source.resolve().parent
    path = folder / place
    inside = _FILE.fullmatch(place) and ".." not in Path(place).parts
    if not inside or not path.resolve().is_relative_to(folder):
        raise InputError(f"expected a file beside {source.name} or below its folder, got {place!r}")
    if not path.is_file():
        raise InputError(f"expected a file {place} beside {source.name}, got none")
    return path


@functools.lru_cache(maxsize=64)
def _loaded(path: Path, content: bytes) -> ModuleType:
    """Run the content of a file as a module.

    Python's own import would read the file again, or take byte code of `__pycache__` instead,
    which it compares with the file only by size and time in whole seconds.
    """
    # the digest in the name keeps two versions of a file apart within one process
    digest = hashlib.sha256(content).hexdigest()
    name = f"dime_robot_terms_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}_{digest[:12]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses and pickling look a class's module up there
    try:
        exec(compile(content, str(path), "exec", dont_inherit=True), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module_of(path: Path) -> ModuleType:
    content = read_bytes(path, "a file of terms", MAX_BYTES)
    module = _imported(path.name, lambda: _loaded(path, content))
    assert isinstance(module, ModuleType)
    return module


def _imported(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # the user's code can raise anything
        raise InputError(f"{name}: cannot be imported: {in_one_line(error)}") from None


def _entry_point(name: str) -> list[Any]:
    return list(entry_points(group=GROUP, name=name))


def _callable(name: str, found: Any) -> Term:
    if not callable(found):
        raise InputError(f"{name}: expected a function or a class, got {type(found).__name__}")
    term: Term = found
    return term


def validated(term: Term, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return all parameters of a term: those that are given, in their types, and its defaults.

    Args:
        term: function or class.
        parameters: by name.

    Raises:
        InputError: a parameter is missing, unknown or invalid, or the signature is not a term's.
    """
    fields = _parameters_of(term)
    unknown = sorted(parameters.keys() - fields.keys())
    if unknown:
        raise InputError(f"{unknown[0]}: unknown, expected parameters out of {sorted(fields)}")
    try:
        model = create_model("Parameters", __base__=StrictModel, **fields)
    except Exception as error:  # pydantic refuses some names and types
        raise InputError(f"its parameters cannot be read: {in_one_line(error)}") from None
    try:
        values = model.model_validate(parameters)
    except ValidationError as error:
        raise InputError(first_problem(error)) from None
    return {name: getattr(values, name) for name in fields}


def _parameters_of(term: Term) -> dict[str, Any]:
    """Return name -> (type, default) of a term's parameters, all but the view."""
    what = f"{getattr(term, '__name__', term)}()"
    target = term.__init__ if inspect.isclass(term) else term
    try:
        signature = inspect.signature(target)
        hints = get_type_hints(target, include_extras=True)
    except Exception as error:  # an annotation of the user's code can raise anything
        raise InputError(f"{what}: its signature cannot be read: {in_one_line(error)}") from None
    arguments = list(signature.parameters.values())
    if inspect.isclass(term):
        arguments = arguments[1:]  # self
    if not arguments or arguments[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise InputError(f"{what}: expected a view as its first argument, got {signature}")
    fields: dict[str, Any] = {}
    for argument in arguments[1:]:
        if argument.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise InputError(f"{what}: expected named parameters, got {argument}")
        if argument.name not in hints:
            raise InputError(f"{what}: expected a type for its parameter {argument.name}, got none")
        default = ... if argument.default is inspect.Parameter.empty else argument.default
        fields[argument.name] = (hints[argument.name], default)
    return fields
