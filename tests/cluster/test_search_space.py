"""The file of a search's settings: what it means, and that anything else is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dime_robot.cluster.search_space import MAX_SAMPLES, read_space
from dime_robot.learning.config import TrainConfig
from dime_robot.runtime.io.errors import InputError
from dime_robot.training.presets import preset_config

BASE = preset_config("tiny", "Pendulum-v1")
SPACE = {
    "actor_lr": {"loguniform": [1e-4, 1e-2]},
    "batch_size": {"choice": [64, 128]},
    "policy_delay": {"int": [1, 3]},
    "discount": {"uniform": [0.9, 0.99]},
    "symmetry": {"choice": [True, False]},
}


def written(folder: Path, content: object) -> Path:
    path = folder / "space.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_draws_lie_in_their_ranges_and_fill_them(tmp_path: Path) -> None:
    drawn = read_space(written(tmp_path, SPACE), BASE).draw(400, 0)
    assert {sample["batch_size"] for sample in drawn} == {64, 128}
    assert {sample["policy_delay"] for sample in drawn} == {1, 2, 3}
    assert {sample["symmetry"] for sample in drawn} == {True, False}
    rates = sorted(sample["actor_lr"] for sample in drawn)
    assert 1e-4 <= rates[0] < 1.3e-4 and 0.8e-2 < rates[-1] <= 1e-2
    assert 0.7e-3 < rates[200] < 1.4e-3  # the median of a uniform logarithm: 1e-3
    discounts = sorted(sample["discount"] for sample in drawn)
    assert 0.9 <= discounts[0] < 0.905 and 0.985 < discounts[-1] <= 0.99
    assert 0.935 < discounts[200] < 0.955
    for sample in drawn:
        TrainConfig(**{**BASE.model_dump(), **sample})


def test_draws_repeat_and_more_samples_keep_the_first_ones(tmp_path: Path) -> None:
    space = read_space(written(tmp_path, SPACE), BASE)
    assert space.draw(5, 3) == space.draw(9, 3)[:5]
    assert space.draw(5, 3) != space.draw(5, 4)
    assert len({str(sample) for sample in space.draw(20, 0)}) == 20


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "expected settings, each as {choice"),
        ([1], "expected settings, each as {choice"),
        ({"wings": {"choice": [1]}}, "wings: expected a setting of train"),
        ({"seed": {"choice": [1]}}, "seed: expected a setting that can differ between samples"),
        ({"steps": {"choice": [1]}}, "steps: expected a setting that can differ"),
        ({"actor_lr": 1e-3}, "actor_lr: expected one of {choice"),
        ({"actor_lr": {"normal": [0, 1]}}, "actor_lr: expected one of {choice.*got 'normal'"),
        ({"actor_lr": {"choice": []}}, "actor_lr.choice: expected a list of values"),
        ({"actor_lr": {"choice": [1e-3, "fast"]}}, "actor_lr: expected a number, got 'fast'"),
        ({"actor_lr": {"uniform": [1e-3]}}, "actor_lr.uniform: expected two numbers"),
        ({"actor_lr": {"uniform": [2e-3, 1e-3]}}, "actor_lr.uniform: expected an ascending"),
        ({"actor_lr": {"uniform": [0.0, 1e-3]}}, "actor_lr: expected more than 0.0, got 0.0"),
        ({"actor_lr": {"uniform": [1e-3, 2]}}, "actor_lr: expected at most 1"),
        ({"actor_lr": {"uniform": [float("nan"), 1.0]}}, "actor_lr.uniform: expected an asc"),
        ({"actor_lr": {"uniform": [True, 1.0]}}, "actor_lr.uniform: expected two numbers"),
        ({"actor_lr": {"uniform": [0, 10**60]}}, "actor_lr.uniform: expected an ascending"),
        ({"alpha_lr": {"loguniform": [0, 1]}}, "alpha_lr.loguniform: expected numbers above 0"),
        ({"atoms": {"uniform": [51, 101]}}, "atoms: expected whole numbers, {int"),
        ({"atoms": {"int": [51, 101.0]}}, "atoms.int: expected two whole numbers"),
        ({"device": {"choice": [3]}}, "device: expected text, got 3"),
        ("a: [", "expected YAML"),
    ],
)
def test_what_does_not_fit_is_one_sentence_with_file_and_key(
    content: Any, sentence: str, tmp_path: Path
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(InputError, match=f"^{path}: {sentence}") as error:
        read_space(path, BASE)
    assert "\n" not in str(error.value)


def test_an_option_that_is_given_already_is_no_setting_to_search(tmp_path: Path) -> None:
    path = written(tmp_path, SPACE)
    for words in (["--actor-lr", "0.1"], ["--actor_lr=0.1"], ["--no-symmetry"]):
        with pytest.raises(InputError, match=r": expected no --.* after -- as well; leave one out"):
            read_space(path, BASE, words)
    with pytest.raises(InputError, match=f"--samples {MAX_SAMPLES + 1}: expected at most 10,000"):
        read_space(path, BASE).draw(MAX_SAMPLES + 1, 0)


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_FORMS = st.dictionaries(
    st.sampled_from(["choice", "uniform", "loguniform", "int", "other"]) | st.text(max_size=3),
    st.lists(_SCALARS, max_size=3) | _SCALARS,
    max_size=2,
)
_SPACES = st.dictionaries(
    st.sampled_from(sorted(TrainConfig.model_fields)) | _SCALARS, _FORMS | _SCALARS, max_size=3
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_SPACES | _SCALARS | st.lists(_SCALARS, max_size=3))
def test_any_content_gives_settings_that_fit_or_one_sentence(tmp_path: Path, content: Any) -> None:
    path = written(tmp_path, content)
    try:
        space = read_space(path, BASE)
        for sample in space.draw(3, 0):
            TrainConfig(**{**BASE.model_dump(), **sample})
    except InputError as refusal:
        sentence = str(refusal)
    else:
        return
    assert "\n" not in sentence
