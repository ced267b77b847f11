"""A run folder: one writer at a time, settings that are taken or refused, and its lineage."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from dime_robot import evaluate, train
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.env_name import file_may_name
from dime_robot.training import checkpoint, lineage, run_folder
from dime_robot.training.run_folder import RunFolder
from dime_robot.training.run_lock import RunLock, remove_unfinished_start
from export import onnx
from tests.paths import shipped_content

SMALL = [
    *("--env", "Pendulum-v1", "--preset", "tiny", "--no-video", "--random-steps", "30"),
    *("--eval-interval", "50", "--eval-episodes", "1", "--batch-size", "16"),
    *("--actor-width", "16", "--critic-width", "16"),
]


def run(folder: Path, *options: str, steps: int = 50) -> int:
    return train.main([*SMALL, "--steps", str(steps), "--out", str(folder), *options])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run(folder) == 0
    return folder


def copy(source: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in ("ckpt.pt", "replay.bin", "config.yaml", "eval.csv"):
        (folder / name).write_bytes((source / name).read_bytes())
    return folder


# -- one writer ----------------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_the_folder_is_free_afterwards(tmp_path: Path) -> None:
    lock = RunLock(RunFolder(tmp_path))
    with pytest.raises(InputError, match=r"process \d+ on .* is training in this folder"):
        RunLock(RunFolder(tmp_path))
    lock.release()
    RunLock(RunFolder(tmp_path)).release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "left"),
    [
        ((".lock", "config.yaml", "config.yaml.tmp", "replay.bin", "ckpt.pt.tmp"), set()),
        ((".lock",), set()),
        (("config.yaml", "ckpt.pt"), {"config.yaml", "ckpt.pt"}),
        (("config.yaml", "notes.txt"), {"config.yaml", "notes.txt"}),
    ],
)
def test_only_a_start_without_a_checkpoint_is_removed(
    names: tuple[str, ...], left: set[str], tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).touch()
    remove_unfinished_start(RunFolder(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == left


def test_a_start_of_a_running_process_is_not_removed(tmp_path: Path) -> None:
    files = RunFolder(tmp_path)
    lock = RunLock(files)
    files.config.touch()
    remove_unfinished_start(files)
    assert files.config.exists() and files.lock.exists()
    lock.release()


def test_no_file_name_of_a_run_is_written_twice() -> None:
    names = [path.name for path in vars(RunFolder(Path("run"))).values() if path.suffix]
    assert {"ckpt.pt", "eval.csv", "policy.onnx"} <= set(names)
    home = Path(run_folder.__file__)
    for path in [*home.parents[1].rglob("*.py"), *home.parents[2].glob("export/*.py")]:
        found = re.findall(rf"""["'/]({"|".join(map(re.escape, names))})["']""", path.read_text())
        assert path == home or not found, f"{path}: {found}"


def test_two_processes_on_one_folder(tmp_path: Path) -> None:
    """Whether new or resumed; a killed holder leaves a folder that is free."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "dime_robot.train", *SMALL, "--steps", "100000"]
    first = subprocess.Popen([*command, "--out", str(folder)], stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if (folder / "ckpt.pt").exists():
                break
            time.sleep(0.1)
        with pytest.raises(InputError, match=f"process {first.pid} on"):
            train.main(["--resume", str(folder), "--no-video"])
        with pytest.raises(InputError, match="expected a new or empty folder"):
            run(folder)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert RunFolder(folder).lock.exists()  # nobody was left to remove it
    step = checkpoint.load(folder / "ckpt.pt").record.step
    assert step < 100_000
    RunLock(RunFolder(folder)).release()


# -- settings ------------------------------------------------------------------------------------


def test_a_larger_number_of_steps_in_config_yaml_is_taken(finished: Path, tmp_path: Path) -> None:
    folder = copy(finished, tmp_path / "run")
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("steps: 50\n", "steps: 70\n", 1))
    assert yaml.safe_load(path.read_text())["steps"] == 70
    assert train.main(["--resume", str(folder), "--no-video"]) == 0
    assert checkpoint.load(folder / "ckpt.pt").record.step == 70


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seed: 0", "seed: 5", "config.yaml: seed 5: the resumed run has 0"),
        ("steps: 50", "steps: 40", "config.yaml: steps 40: the resumed run has 50"),
        ("steps: 50", "steps: many", "config.yaml: steps: "),
        ("steps: 50", "stepps: 50", "stepps"),
        ("steps: 50", "- steps", "config.yaml: expected"),
        ("steps: 50", "steps: 50\nextends: other.yaml", "config.yaml: extends: "),
        ("env: Pendulum-v1", "env: evil:X-v0", "code to import"),
    ],
)
def test_another_change_in_config_yaml_is_refused_by_name(
    old: str, new: str, words: str, finished: Path, tmp_path: Path
) -> None:
    folder = copy(finished, tmp_path / "run")
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace(f"{old}\n", f"{new}\n", 1))
    before = path.read_bytes(), (folder / "ckpt.pt").read_bytes()
    with pytest.raises(InputError, match=words):
        train.main(["--resume", str(folder), "--no-video"])
    assert (path.read_bytes(), (folder / "ckpt.pt").read_bytes()) == before


# -- broken files --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ckpt.pt", "replay.bin"])
def test_twenty_flipped_bits_are_refused_and_the_folder_is_free(
    name: str, finished: Path, tmp_path: Path
) -> None:
    folder = copy(finished, tmp_path / "run")
    path = folder / name
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(len(content), size=20).tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(InputError, match=name):
            train.main(["--resume", str(folder), "--steps", "55", "--no-video"])
        assert not RunFolder(folder).lock.exists()
    path.write_bytes(content)
    assert train.main(["--resume", str(folder), "--steps", "55", "--no-video"]) == 0


# -- a file does not choose code -----------------------------------------------------------------


def test_what_a_file_may_name() -> None:
    for env in ("Pendulum-v1", "dm_control/dog-run-v0", "sim:go2-walk", "ALE/Pong-v5"):
        assert file_may_name(env), env
    for env in (
        *("evil:X-v0", "evilmod:dm_control/dog-run-v0", "sim:/etc/x.yaml", "sim:../go2", "sim:go3"),
        *("sim:go2.yaml", "", "a:b", "X-v0\n", "x/../y:z", "sim:go2\n", "../x:Y-v0"),
    ):
        assert not file_may_name(env), env


def test_no_command_imports_what_a_checkpoint_names(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("evilmod.py").write_text("open('imported', 'w').close()\n")
    folder = copy(finished, tmp_path / "run")
    state = checkpoint.load(folder / "ckpt.pt")
    (stage,) = state.record.lineage
    named = stage.model_copy(
        update={"config": stage.config.model_copy(update={"env": "evilmod:X-v0"})}
    )
    record = state.record.model_copy(update={"lineage": (named,)})
    path = folder / "ckpt.pt"
    checkpoint.save(path, record, state.learner)
    (folder / "config.yaml").unlink()
    for command, arguments in (
        (evaluate.main, [str(path), "--episodes", "1"]),
        (onnx.main, [str(path)]),
        (train.main, ["--resume", str(folder), "--no-video"]),
    ):
        with pytest.raises(InputError, match=r"evilmod:X-v0.*name it yourself with --env"):
            command(arguments)
    assert not Path("imported").exists()
    # what the user names himself is taken
    assert evaluate.main([str(path), "--episodes", "1", "--env", "Pendulum-v1"]) == 0
    assert onnx.main([str(path), "--env", "Pendulum-v1"]) == 0


# -- lineage -------------------------------------------------------------------------------------


def test_every_environment_and_the_init_are_recorded(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, "--init", str(finished / "ckpt.pt"), "--seed", "7")
    before = checkpoint.load(finished / "ckpt.pt")
    stages = checkpoint.load(folder / "ckpt.pt").record.lineage
    assert [stage.begins for stage in stages] == ["new", "init"]
    assert stages[1].init == before.digest
    lines = lineage.commands(stages)
    assert len(lines) == 2
    assert "--out runs/1" in lines[0]
    assert "--init runs/1/ckpt.pt" in lines[1]
    assert "--seed 7" in lines[1]
    report = (folder / "report.html").read_text()
    assert "--init runs/1/ckpt.pt" in report
    assert before.digest in report


def test_a_change_of_environment_is_repeated_by_its_commands(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    go2 = [*SMALL[2:], "--v-max", "140"]
    train.main([*go2, "--env", "sim:go2-walk", "--steps", "40", "--out", str(folder)])
    resumed = ["--resume", str(folder), "--no-video"]
    train.main([*resumed, "--env", "sim:go2-steer", "--steps", "60"])
    stages = checkpoint.load(folder / "ckpt.pt").record.lineage
    assert [(s.begins, s.since, s.until) for s in stages] == [("new", 0, 40), ("moved", 40, 60)]
    first, second = lineage.commands(stages)
    assert "--steps 40" in first
    assert second.endswith("--resume runs/1 --env sim:go2-steer --steps 60")


@pytest.mark.parametrize(
    ("option", "value"), [("--v-max", "50"), ("--v-min", "-50"), ("--atoms", "51")]
)
def test_critics_never_go_on_with_other_atoms(
    option: str, value: str, finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"it was trained with {option}.*other returns"):
        run(tmp_path / "run", "--init", str(finished / "ckpt.pt"), option, value)
    assert not (tmp_path / "run").exists()


def test_a_robot_by_path_is_trained_as_by_name(tmp_path: Path) -> None:
    by_name = train.parse(["--env", "sim:go2"]).config
    path = Path(train.__file__).parents[1] / "sim_configs" / "go2.yaml"
    by_path = train.parse(["--env", f"sim:{path}"]).config
    assert by_path == by_name.model_copy(update={"env": f"sim:{path}"})


def test_atoms_follow_from_reward_and_discount_where_a_robot_states_none(tmp_path: Path) -> None:
    content = shipped_content("go2")
    content["training"] = {"discount": 0.98}
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(content))
    config = train.parse(["--env", f"sim:{own}"]).config
    # rewards of at most 2.75, so discounted returns of at most 137.5
    assert config.discount == 0.98
    assert (config.v_min, config.v_max) == pytest.approx((-13.75, 151.25), abs=0.1)
