"""Where configurations are and how one is read, before anything in it is judged."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from dime_robot.runtime.errors import InputError


class _Loader(yaml.SafeLoader):
    """YAML that says what it seems to say: no key twice, and 1e-3 is a number."""

    def compose_mapping_node(self, anchor: dict[Any, Node]) -> MappingNode:
        """Refuse what PyYAML takes without a word: of a key that comes twice, the last."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                continue
            if key.value in seen:
                line = key.start_mark.line + 1
                raise InputError(f"line {line}: expected the key {key.value} once, got it twice")
            seen.add(key.value)
        return node


_Loader.add_implicit_resolver(  # YAML 1.1 wants a point and a sign, else 1e-3 is a word
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def config_folder() -> Path:
    """Where the shipped configurations are."""
    return Path(str(resources.files("sim_configs")))


def read_yaml(path: Path) -> object:
    """A YAML file's content.

    Raises:
        InputError: no such file, no YAML, or a key twice.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: expected a configuration, {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # 2026-13-45 is a ValueError
        raise InputError(f"{path}: expected YAML, got {' '.join(str(error).split())}") from None


def read_config(path: Path) -> dict[str, object]:
    """A configuration's content; `extends: FILE` is replaced by that file under what stands here.

    Raises:
        InputError: a file is missing or no YAML, is no mapping, or extends one that extends.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: expected a mapping, such as a section `robot:`, got {content!r:.40}"
        )
    if "extends" not in content:
        return content
    name = content.pop("extends")
    if not isinstance(name, str) or not (path.parent / name).is_file():
        raise InputError(f"{path}: extends: expected a file beside it, got {name!r:.60}")
    other = read_yaml(path.parent / name)
    if not isinstance(other, dict) or "extends" in other:
        raise InputError(f"{path}: extends: expected a file that extends no other, got {name}")
    return _overlaid(other, content)


def _overlaid(below: dict[str, object], above: dict[str, object]) -> dict[str, object]:
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        both = isinstance(under, dict) and isinstance(value, dict)
        result[key] = _overlaid(under, value) if both else value  # type: ignore[arg-type]
    return result
