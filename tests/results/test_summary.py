"""`python -m dime_robot.report` of a folder of results: statistics, tables, figures, refusals."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from dime_robot import report, train
from dime_robot.learning.config import changes, option_words
from dime_robot.results.curves import Curves, read_reference
from dime_robot.results.figures import ablation_figure, task_figure
from dime_robot.results.summary import write_results
from dime_robot.runtime.io.errors import InputError
from dime_robot.training.presets import preset_config
from tests.paths import ROOT

HEAD = "step,seed,return_mean,return_std,episodes,wall_seconds"


def write(path: Path, curves: dict[int, dict[int, float]]) -> None:
    """Seed -> step -> return."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{step},{seed},{value},1,20,2"
        for seed, curve in curves.items()
        for step, value in curve.items()
    ]
    path.write_text("\n".join([HEAD, *lines]) + "\n")


def cells(summary: Path, first: str) -> list[str]:
    """The row of a table in it that begins with this cell."""
    (line,) = re.findall(rf"^\| {re.escape(first)} +\|.*", summary.read_text(), re.M)
    return [cell.strip() for cell in line.strip("|").split("|")]


# -- the folder ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Known numbers: one task below the authors' lowest, one within, one without reference."""
    results = tmp_path / "results"
    write(results / "low-v0.csv", {s: {0: 0, 50_000: 10.0 * s} for s in range(5)})
    write(results / "good-v0.csv", {s: {0: 0, 50_000: 100 + s} for s in (3, 7)})
    write(results / "own-v0.csv", {0: {0: 1.0, 10: -5.0}, 1: {0: 1.0, 10: -7.0, 20: -6.0}})
    theirs = "step,iqm,mean,min,max\n1,0,0,0,0\n48000,90,88,70,120\n72000,900,900,800,950\n"
    (results / "reference").mkdir()
    for name in ("low", "good"):
        (results / f"reference/{name}-v0.csv").write_text(theirs)
    return results


def test_summary_has_the_known_numbers(folder: Path) -> None:
    write_results(folder)
    summary = folder / "summary.md"
    assert summary.read_text().startswith("`python -m dime_robot.report results` makes")
    finals = "0: 0.0, 1: 10.0, 2: 20.0, 3: 30.0, 4: 40.0"
    low = cells(summary, "low-v0")
    assert low[:3] == ["low-v0", "5", "50,000"]
    assert low[3].startswith("20.0 [")
    assert low[4:] == [finals, "90 [70, 120] at 48,000", "below"]
    assert cells(summary, "good-v0") == [
        *("good-v0", "2", "50,000", "105.0 (103.0 to 107.0)", "3: 103.0, 7: 107.0"),
        *("90 [70, 120] at 48,000", "within"),
    ]
    assert cells(summary, "own-v0")[2:] == [
        *("10 in common, up to 20", "-6.0 (-7.0 to -5.0)", "0: -5.0, 1: -6.0 at 20", "-", "-")
    ]


def test_better_than_the_authors_is_said_too_and_far_from_their_steps_nothing(folder: Path) -> None:
    write(folder / "good-v0.csv", {0: {48_000: 121.0}})
    for far in (0, 40_000, 60_000):  # they were not looked at in the last tenth before it
        write(folder / "low-v0.csv", {0: {far: 5.0}})
        write_results(folder)
        assert cells(folder / "summary.md", "good-v0")[-1] == "above"
        assert cells(folder / "summary.md", "low-v0")[-2:] == ["-", "-"]


def test_a_seed_that_ended_early_is_neither_dropped_nor_compared_with_longer_ones(
    folder: Path,
) -> None:
    write(folder / "low-v0.csv", {0: {0: 0.0, 10: 1.0}, 1: {0: 0.0, 10: 3.0, 48_000: 100.0}})
    write_results(folder)
    assert cells(folder / "summary.md", "low-v0")[2:] == [
        *("10 in common, up to 48,000", "2.0 (1.0 to 3.0)", "0: 1.0, 1: 100.0 at 48,000", "-", "-")
    ]


def test_what_others_reached_may_lie_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "reference").rename(folder / "theirs")
    monkeypatch.setattr("sys.argv", ["report", str(folder), "--reference", str(folder / "theirs")])
    assert report.main() == 0
    assert cells(folder / "summary.md", "good-v0")[-1] == "within"
    with pytest.raises(InputError, match="nowhere: expected a CSV per task of what others reached"):
        write_results(folder, folder / "nowhere")


def test_ablations_have_a_table_and_a_figure_each_in_the_order_of_their_numbers(
    folder: Path,
) -> None:
    task = folder / "ablation/walk-v0"
    for name, top in {"N=16": 40.0, "N=2": 20.0, "lr=1e-3": 3.0, "lr=1e-4": 2.0}.items():
        write(task / f"{name}.csv", {s: {0: 0, 10: top, 20: 2 * top} for s in range(3)})
    written = write_results(folder)
    assert folder / "ablation/walk-v0.svg" in written
    text = (folder / "summary.md").read_text()
    _, table = text.split("## Ablation: walk-v0")
    assert re.findall(r"^\| (\w+=\S+)", table, re.M) == ["N=2", "N=16", "lr=1e-4", "lr=1e-3"]
    assert cells(folder / "summary.md", "N=16") == [
        *("N=16", "3", "20", "80.0 (80.0 to 80.0)", "40.0 (40.0 to 40.0)")
    ]
    shutil.rmtree(task)
    assert folder / "ablation/walk-v0.svg" not in write_results(folder)


def words(figure: Path) -> str:
    """The text of a figure."""
    return "\n".join(re.findall(r">([^<>]+)</text>", figure.read_text()))


def test_figures_say_what_is_drawn(folder: Path) -> None:
    write_results(folder)
    low, good = words(folder / "low-v0.svg"), words(folder / "good-v0.svg")
    assert "IQM of 5 seeds, 95 % interval" in low
    assert "IQM of 2 seeds, lowest to highest" in good
    assert "authors: IQM, lowest to highest" in good
    assert "authors" not in words(folder / "own-v0.svg")


def bands(figure: Path) -> int:
    return figure.read_text().count("PolyCollection_")


def test_one_seed_is_a_line_and_more_have_a_band(folder: Path) -> None:
    shutil.rmtree(folder / "reference")
    write(folder / "own-v0.csv", {4: {0: 1.0, 10: 2.0}})
    write_results(folder)
    assert [bands(folder / f"{name}-v0.svg") for name in ("low", "good", "own")] == [1, 1, 0]
    assert "seed 4" in words(folder / "own-v0.svg")
    assert "IQM" not in words(folder / "own-v0.svg")


def test_a_single_step_can_be_seen() -> None:
    none = np.empty((0, 5))
    one = task_figure(Curves("x", {s: {10: float(s)} for s in range(5)}), none)
    two = task_figure(Curves("x", {s: {0: 0.0, 10: float(s)} for s in range(5)}), none)
    assert one.count('id="LineCollection_') == 1 and two.count('id="LineCollection_') == 0
    assert "IQM of 5 seeds, 95 % interval" in one


def test_a_variant_without_a_common_step_is_named() -> None:
    variants = [Curves("a", {0: {0: 1.0}, 1: {5: 2.0}}), Curves("b", {0: {0: 1.0, 5: 2.0}})]
    svg = ablation_figure("task", variants)
    assert "a (2 seeds), no step in common" in svg and "b (1 seed)" in svg


def test_seeds_without_a_common_step_are_drawn_by_themselves(folder: Path) -> None:
    write(folder / "own-v0.csv", {s: {s: 1.0, 10 + s: 2.0} for s in range(3)})
    write_results(folder)
    assert "IQM" not in words(folder / "own-v0.svg")
    assert cells(folder / "summary.md", "own-v0")[2:5] == [
        *("none in common, up to 12", "-", "0: 2.0 at 10, 1: 2.0 at 11, 2: 2.0 at 12")
    ]


def test_the_same_data_give_the_same_bytes(folder: Path) -> None:
    write(folder / "ablation/walk-v0/a.csv", {s: {0: 0, 10: 5.0 + s} for s in range(4)})
    before = {path: path.read_bytes() for path in write_results(folder)}
    assert len(before) == 5
    assert before == {path: path.read_bytes() for path in write_results(folder)}
    write(folder / "low-v0.csv", {s: {0: 0, 50_000: 11.0 * s} for s in range(5)})
    write_results(folder)
    changed = [path.name for path, content in before.items() if path.read_bytes() != content]
    assert changed == ["low-v0.svg", "summary.md"]


def test_our_own_results_can_be_drawn_from_a_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "results", tmp_path / "results")
    (tmp_path / "results/summary.md").unlink(missing_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["report", "results"])
    assert report.main() == 0
    printed = capsys.readouterr().out.split()
    tasks = [path.stem for path in (ROOT / "results").glob("*.csv")]
    assert {f"results/{task}.svg" for task in tasks} | {"results/summary.md"} <= set(printed)
    for task in tasks:
        assert cells(tmp_path / "results/summary.md", task)


def test_a_summary_of_another_command_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "summary.md").write_bytes(b"`python -m dime_robot.sweep` makes \xff this file\n")
    monkeypatch.setattr("sys.argv", ["report", str(folder)])
    assert report.main() == 0
    assert "summary.md is another command's and stays as it is" in capsys.readouterr().out
    assert (folder / "summary.md").read_bytes().count(b"\n") == 1
    assert (folder / "low-v0.svg").exists()


# -- the report of a run -------------------------------------------------------------------------


def test_the_words_of_a_command_make_the_configuration_again() -> None:
    base = preset_config("tiny", "Pendulum-v1")
    update = {"learn_step_size": False, "v_min": -1e-05, "actor_lr": 1e-07, "compile": True}
    config = base.model_copy(update=update)
    words = option_words(changes(config, base))
    assert train.parse(["--env", "Pendulum-v1", "--preset", "tiny", *words]).config == config


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "expected the columns step,seed"),
        (f"{HEAD}\n", "expected at least one evaluation, got none"),
        (f"{HEAD}\n0,0,1\n", "expected rows of six numbers"),
        (f"{HEAD}\n0,0,1,1,20,2,7,8\n", "expected rows of six numbers"),
        (f"{HEAD}\n0,0,\xff,1,20,2\n", "expected the evaluations of a run (eval.csv) in UTF-8"),
        (f"{HEAD}\n-5,0,1,1,20,2\n", "expected step to be at least 0, got -5"),
        (f"{HEAD}\n0,-1,1,1,20,2\n", "expected seed to be at least 0, got -1"),
        (f"{HEAD}\n0,0,1,1,0,2\n", "expected episodes to be at least 1, got 0"),
        (f"{HEAD}\n0,4,nan,1,20,2\n", "seed 4, step 0: expected a finite return_mean, got nan"),
        (f"{HEAD}\n0,4,1,1,20,2\n0,4,2,1,20,2\n", "got 2 of seed 4 at 0"),
    ],
)
def test_a_malformed_csv_is_one_sentence(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "task.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=re.escape(message)) as error:
        write_results(tmp_path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["task.csv"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "step,iqm,mean,min,max\n",
        "step,mean,iqm,min,max\n1,2,3,4,5\n",
        "step,iqm,mean,min,max\n1,2,3,4\n",
        "step,iqm,mean,min,max\n1,2,3,4,5\n1,2\n",
        "step,iqm,mean,min,max\n1,2,x,4,5\n",
        "step,iqm,mean,min,max\n1,2,inf,4,5\n",
    ],
)
def test_a_malformed_reference_is_one_sentence(content: str, tmp_path: Path) -> None:
    path = tmp_path / "task.csv"
    path.write_text(content)
    with pytest.raises(InputError, match="expected the columns step,iqm,mean") as error:
        read_reference(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a run folder"):
        write_results(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_seeds_that_share_no_step_have_nothing_to_compare(tmp_path: Path) -> None:
    """Also where the reference has a row at step 0, which any share of no steps would reach."""
    head = "step,seed,return_mean,return_std,episodes,wall_seconds\n"
    (tmp_path / "Task.csv").write_text(f"{head}10,0,1,0,20,1\n20,1,2,0,20,1\n")
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference/Task.csv").write_text("step,iqm,mean,min,max\n0,1,1,1,1\n")
    summary = write_results(tmp_path)[-1].read_text()
    assert "none in common, up to 20" in summary
