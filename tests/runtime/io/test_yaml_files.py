"""YAML within bounds, and files that extend one another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dime_robot.runtime.contract.config_files import MAX_CHAIN, config_folder, read_config
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.yaml_files import MAX_DEPTH, MAX_NODES, parse_yaml
from dime_robot.sim.config.robot_task import load_robot_task
from tests.malformed import within
from tests.paths import ROOT, shipped_content

# no digits: PyYAML writes the text 1e3 as it is, which is a number here
words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z", "N"]), max_size=10)
leaves = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | words
leaves |= st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.dictionaries(words, inner), max_leaves=10
)


@settings(max_examples=50)
@given(values)
def test_what_is_dumped_comes_back(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value)) == value


def bomb(width: int, levels: int, form: str = "list") -> str:
    """Few lines that stand for width ** levels values."""
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, levels):
        alias = f"*a{level - 1}"
        if form == "list":
            inner = f"[{', '.join([alias] * width)}]"
        else:
            inner = "{" + ", ".join(f"k{i}: {alias}" for i in range(width)) + "}"
        lines.append(f"a{level}: &a{level} {inner}")
    return "\n".join(lines)


BEYOND = {
    "aliases in lists": (bomb(9, 12), "every alias written out"),
    "aliases in mappings": (bomb(9, 12, "mapping"), "every alias written out"),
    "a ladder of aliases": (bomb(1, 60), "levels with every alias written out"),
    "merged aliases": (
        bomb(2, 20) + "\nb: {<<: *a0, y: *a19}",
        "every alias written out",
    ),
    "an alias of what is around it": ("a: &a [1, *a]", "alias of 'a', which would contain itself"),
    "brackets": ("[" * 100_000, f"expected up to {MAX_DEPTH} levels"),
    "braces": ("{a: " * 50_000, f"expected up to {MAX_DEPTH} levels"),
    "dashes": ("- " * 100_000, f"expected up to {MAX_DEPTH} levels"),
    "question marks": ("? " * 100_000, f"expected up to {MAX_DEPTH} levels"),
    "many values": ("[" + "1," * 100_000 + "]", f"expected up to {MAX_NODES:,} values"),
    "a long text": ("a: " + "x" * 200_000, "expected text of up to 4,000 characters, got 200,000"),
    "a long key": ("? " + "x" * 1_000 + "\n: 1", "expected a key of up to 200 characters"),
    "a long number": ("a: 0x" + "F" * 2_000, "expected a number of up to 64 characters"),
    "a timestamp": ("a: !!timestamp abc", "expected a value without a tag"),
    "a boolean": ("a: !!bool abc", "expected a value without a tag"),
    "an object": ("a: !!python/object/apply:os.system [ls]", "expected a value without a tag"),
    "a NUL": ('a: "x\\0y"', r"without control characters, got '\\x00'"),
    "an escape": ('a: "\\e[2J"', r"without control characters, got '\\x1b'"),
    "half a character": ('a: "\\ud800"', r"without control characters, got '\\ud800'"),
    "a list as key": ("? [a]\n: 1", "expected a word as a key, got 'a list or a mapping'"),
    "a truth as key": ("on: 1", "expected a word as a key, got 'on'"),
}


@pytest.mark.parametrize("name", BEYOND)
def test_beyond_a_bound_is_one_sentence(name: str, tmp_path: Path) -> None:
    text, sentence = BEYOND[name]
    path = tmp_path / "robot.yaml"
    path.write_text(text)
    with within(8.0), pytest.raises(InputError, match=sentence) as raised:
        read_config(path)
    assert str(raised.value).startswith(f"{path}: line ")
    assert len(str(raised.value)) < 300


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(bomb(9, 12))
    # the child limits itself: whatever other tests have loaded here, nothing is forked
    words = [
        "import resource, sys",
        "resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))",
        "from dime_robot import config",
        "from dime_robot.runtime.io.command import run_command",
        "run_command(lambda: config.main(['check', sys.argv[1]]))",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(words), str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {path}: line ")
    assert done.stderr.count("\n") == 1


def test_aliases_within_the_bounds_are_followed() -> None:
    assert parse_yaml("a: &a {x: 1}\nb: [*a, *a]\nc: {<<: *a, y: 2}") == {
        "a": {"x": 1},
        "b": [{"x": 1}, {"x": 1}],
        "c": {"x": 1, "y": 2},
    }


# ---- extends


def chain(folder: Path, length: int) -> Path:
    """Files that extend one another, each with a key of its own; the first one."""
    for i in range(length):
        content: dict[str, Any] = {"shared": {f"k{i}": i, "who": i}}
        if i < length - 1:
            content["extends"] = f"{i + 1}.yaml"
        (folder / f"{i}.yaml").write_text(yaml.safe_dump(content))
    return folder / "0.yaml"


@pytest.mark.parametrize("length", [1, 2, 3, MAX_CHAIN])
def test_a_chain_is_laid_over_from_its_end(length: int, tmp_path: Path) -> None:
    content = read_config(chain(tmp_path, length))
    assert content == {"shared": {**{f"k{i}": i for i in range(length)}, "who": 0}}


def test_a_chain_has_an_end(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"expected up to {MAX_CHAIN} files that extend"):
        read_config(chain(tmp_path, MAX_CHAIN + 1))


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_circle_is_named(length: int, tmp_path: Path) -> None:
    first = chain(tmp_path, length)
    (tmp_path / "link.yaml").symlink_to(first)  # the same file by another name
    (tmp_path / f"{length - 1}.yaml").write_text("extends: link.yaml")
    names = " -> ".join([*(f"{i}.yaml" for i in range(length)), "link.yaml"])
    with pytest.raises(InputError, match=f"does not extend itself, got {names}"):
        read_config(first)


@pytest.mark.parametrize("way", ["absolute", "relative", "through a third"])
def test_a_model_is_beside_the_file_that_names_it(way: str, tmp_path: Path) -> None:
    base, above = tmp_path / "base", tmp_path / "above"
    base.mkdir()
    above.mkdir()
    content = shipped_content("cartpole")
    content["sim"]["model"] = "models/cart.xml"
    content["latency"] = {"action": {"file": "measured.json"}}
    (base / "cart.yaml").write_text(yaml.safe_dump(content))
    name = {"absolute": str(base / "cart.yaml"), "relative": "../base/cart.yaml"}.get(way)
    if name is None:
        (base / "between.yaml").write_text("extends: cart.yaml")
        name = "../base/between.yaml"
    path = above / "mine.yaml"
    path.write_text(yaml.safe_dump({"extends": name, "task": {"episode_seconds": 7.0}}))
    config, model = load_robot_task(path)
    assert model == base / "models/cart.xml"
    assert config.latency.action is not None
    assert config.latency.action.file == str(base / "measured.json")
    assert config.episode_seconds == 7.0
    path.write_text(yaml.safe_dump({"extends": name, "sim": {"model": "own.xml"}}))
    assert load_robot_task(path)[1] == above / "own.xml"


def test_shipped_files_name_their_models_as_before() -> None:
    for path in config_folder().glob("*.yaml"):
        sim = read_config(path)["sim"]
        assert isinstance(sim, dict)
        assert (config_folder() / sim["model"]).parent == config_folder() / "models"
        assert (config_folder() / sim["model"]).is_file()


def test_null_leaves_out_what_an_extended_file_has(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("a: {x: {y: 1}, z: 2}\nb: {c: 3}\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\na: {x: null, z: null}\nb: null\n")
    assert read_config(tmp_path / "mine.yaml") == {"a": {"z": None}}
