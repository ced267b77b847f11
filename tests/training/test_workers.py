"""Workers: the same results for any number of them, and what happens when a process ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from gymnasium.wrappers import TimeLimit

from dime_robot import sweep, train
from dime_robot.envs import make_env
from dime_robot.learning.config import TrainConfig
from dime_robot.results.eval_csv import read_eval_csv
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.trust import typed_env
from dime_robot.training import checkpoint
from dime_robot.training.env_maker import EnvMaker
from dime_robot.training.run import TrainingRun
from dime_robot.training.train_policy import train_policy
from dime_robot.training.vector_env import SeededVectorEnv
from dime_robot.training.workers import Workers
from tests.paths import ROOT
from tests.test_train import SMALL, assert_equal_weights
from tests.training.test_curriculum import LEVELS
from tests.training.worker_envs import Failing, Leaving, Ramble

COUNT = 5  # cannot be divided evenly among 2 or 3
STEPS = ["--num-envs", str(COUNT), "--update-to-data", "0.4", "--steps", "240"]
RAMBLE = "tests.training.worker_envs:Ramble-v0"


def vector_env(env: Any, workers: int) -> SeededVectorEnv:
    maker = EnvMaker.of(env, 3)
    return SeededVectorEnv(maker, COUNT, lambda number: 1000 + number, workers=workers)


def children(pid: int) -> list[int]:
    of_threads = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for found in of_threads for child in found.read_text().split()]


def workers_of(pid: int) -> list[int]:
    return [child for child in children(pid) if b"worker_process" in command_line(child)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""  # as of a process that has ended


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def sleeps(pid: int) -> bool:
    """Whether a process does nothing for half a second."""
    for _ in range(25):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "S":
            return False
        time.sleep(0.02)
    return True


def all_ended(pids: list[int]) -> bool:
    return not any(b"worker_process" in command_line(pid) for pid in pids)


# -- results do not depend on them ---------------------------------------------------------------


def rollout(envs: SeededVectorEnv) -> list[Any]:
    """All that 60 steps give, at three levels, with episodes that terminate and are truncated."""
    seen: list[Any] = [envs.reset()[0]]
    rng = np.random.default_rng(0)
    for step in range(60):
        envs.level = (0, 2, None)[step // 20]
        actions = rng.uniform(-1, 1, (COUNT, 1)).astype(np.float32)
        *numbers, infos = envs.step(actions)
        last = [] if not infos else [obs.tolist() for obs in infos["final_obs"] if obs is not None]
        seen.append([*(each.tolist() for each in numbers), last, *map(vars, envs.ended)])
    seen.append(envs.open_episodes())
    envs.close()
    return [each.tolist() if isinstance(each, np.ndarray) else each for each in seen]


def test_every_number_of_workers_gives_the_same_steps() -> None:
    expected = rollout(vector_env("Ramble-v0", 0))
    ended = [episode for step in expected[1:-1] for episode in step[5:]]
    assert {episode["terminated"] for episode in ended} == {True, False}
    assert {episode["level"] for episode in ended} == {0, 2, None}
    assert {bool(episode["means"]) for episode in ended} == {True, False}
    for workers in (1, 2, 3, COUNT):
        assert rollout(vector_env("Ramble-v0", workers)) == expected, workers


def finished_run(folder: Path, *options: str) -> Path:
    assert train.main([*SMALL, *STEPS, "--out", str(folder), *options]) == 0
    return folder


def assert_equal_runs(a: Path, b: Path) -> None:
    assert_equal_weights(a, b)
    ours, theirs = (checkpoint.load(each / "ckpt.pt").record for each in (a, b))
    for name in ("step", "updates", "episodes", "curriculum", "final"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.replay.digests == theirs.replay.digests
    rows = [[(r.step, r.return_mean) for r in read_eval_csv(f / "eval.csv")] for f in (a, b)]
    assert rows[0] == rows[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without workers, on which no test writes."""
    return finished_run(tmp_path_factory.mktemp("runs") / "whole", "--env", RAMBLE)


@pytest.mark.parametrize("workers", [1, 3])
def test_every_number_of_workers_gives_the_same_run(
    workers: int, whole: Path, tmp_path: Path
) -> None:
    folder = finished_run(tmp_path / "run", "--env", RAMBLE, "--workers", str(workers))
    assert checkpoint.load(folder / "ckpt.pt").record.config.workers == workers
    assert_equal_runs(folder, whole)


def test_levels_change_at_the_same_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "levels.yaml"
    path.write_text(yaml.safe_dump(LEVELS))
    alone = finished_run(tmp_path / "alone", "--env", f"sim:{path}")
    divided = finished_run(tmp_path / "divided", "--env", f"sim:{path}", "--workers", "2")
    assert capsys.readouterr().out.count("level short: 100%") == 2
    assert_equal_runs(alone, divided)


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], object]) -> None:
    original = TrainingRun._environment_step

    def environment_step(self: TrainingRun, logger: Any) -> None:
        original(self, logger)
        if self.step == step:
            action()

    monkeypatch.setattr(TrainingRun, "_environment_step", environment_step)


@pytest.mark.parametrize(("before", "after"), [(2, 3), (0, 2)])
def test_a_run_goes_on_with_another_number_of_workers(
    before: int, after: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 115, lambda: os.kill(os.getpid(), signal.SIGTERM))
        finished_run(folder, "--env", RAMBLE, "--workers", str(before))
    assert checkpoint.load(folder / "ckpt.pt").record.step == 115
    resume = ["--resume", str(folder), "--env", RAMBLE, "--no-video"]
    assert train.main([*resume, "--workers", str(after)]) == 0
    assert checkpoint.load(folder / "ckpt.pt").record.config.workers == after
    assert_equal_runs(folder, whole)
    with pytest.raises(InputError, match=r"workers: expected at most num_envs = 5.* got 6"):
        train.main([*resume, "--workers", "6"])


def test_workers_step_while_the_learner_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results are those of --overlap without workers."""
    options = ["--env", RAMBLE, "--overlap"]
    alone = finished_run(tmp_path / "alone", *options)
    divided = finished_run(tmp_path / "divided", *options, "--workers", "2")
    assert_equal_runs(alone, divided)
    monkeypatch.setenv("WAIT_FOR", str(tmp_path / "go"))
    envs = vector_env("Waiting-v0", 2)
    envs.reset()
    envs.step_async(np.zeros((COUNT, 1), dtype=np.float32))
    (tmp_path / "go").touch()  # a step that were made already would have waited a minute for this
    began = time.monotonic()
    envs.step_wait()
    assert time.monotonic() - began < 50
    envs.close()


# -- what cannot be divided ----------------------------------------------------------------------


def test_more_workers_than_environments_are_refused() -> None:
    with pytest.raises(InputError, match=r"^workers: expected at most num_envs = 2.* got 3$"):
        TrainConfig(num_envs=2, workers=3)


def test_an_environment_that_cannot_be_sent_is_refused_in_one_sentence() -> None:
    class Locked(Ramble):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

        def __deepcopy__(self, memo: object) -> Locked:
            return Locked()

    with pytest.raises(InputError, match=r"sent to another process.*pickle.*leave out") as error:
        vector_env(Locked(), 2)
    assert "\n" not in str(error.value)
    vector_env(Locked(), 0).close()


def test_functions_and_objects_of_a_program_can_be_divided() -> None:
    class Local(Ramble):
        """A class that no import finds."""

    expected = rollout(vector_env(lambda: TimeLimit(Ramble(), 12), 0))
    assert rollout(vector_env(lambda: TimeLimit(Local(), 12), 2)) == expected
    assert rollout(vector_env(TimeLimit(Local(), 12), 2)) == expected


def test_terms_of_the_users_own_are_imported_in_workers_for_a_typed_file(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples/own_robot", tmp_path / "own")
    name = f"sim:{tmp_path / 'own/crane.yaml'}"
    with pytest.raises(InputError, match=r"terms\.py") as refused:
        make_env(name)
    with pytest.raises(InputError) as also:
        vector_env(name, 2)
    assert str(also.value) == str(refused.value)
    typed_env(None, tmp_path / "own/crane.yaml")
    results = []
    for workers in (0, 2):
        envs = vector_env(name, workers)
        envs.reset()
        actions = np.full(envs.action_space.shape, 0.5, dtype=np.float32)  # type: ignore[arg-type]
        results.append([envs.step(actions)[:2] for _ in range(5)])
        envs.close()
    np.testing.assert_equal(*results)


# -- errors --------------------------------------------------------------------------------------


def error_of(env: Any, workers: int) -> BaseException:
    envs = SeededVectorEnv(lambda i: make_env(env if i == 3 else Ramble), COUNT, int, (), workers)
    envs.reset()
    still = np.zeros((COUNT, 1), dtype=np.float32)
    for _ in range(2):
        envs.step(still)
    with pytest.raises((InputError, SystemExit)) as error:
        envs.step(still)
    envs.close()
    return error.value


@pytest.mark.parametrize("env", [Failing, Leaving])
def test_an_error_of_an_environment_arrives_as_it_is(env: type[Ramble]) -> None:
    here, there = error_of(env, 0), error_of(env, 2)
    assert (type(there), str(there)) == (type(here), str(here))
    assert "worker_envs.py" in str(there.__cause__)
    if env is Failing:
        assert "step failed: ValueError: no step 3 (worker_envs.py:" in str(there)


def test_an_environment_that_cannot_be_made_leaves_no_worker() -> None:
    messages = []
    for workers in (0, 2):
        with pytest.raises(InputError) as error:
            vector_env("Nowhere-v7", workers)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert not workers_of(os.getpid())


def test_a_killed_worker_ends_the_run_and_it_can_go_on(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 120, lambda: os.kill(workers_of(os.getpid())[1], signal.SIGKILL))
        sentence = (
            r"^worker 2 of 2 \(process \d+, environments 2 to 4\) was killed by signal 9, [^\n]*;"
            rf" {re.escape(str(folder))}/ckpt.pt is the last good checkpoint: go on with --resume"
        )
        with pytest.raises(InputError, match=sentence):
            finished_run(folder, "--env", RAMBLE, "--workers", "2")
    assert checkpoint.load(folder / "ckpt.pt").record.step == 100
    assert not workers_of(os.getpid())
    assert train.main(["--resume", str(folder), "--env", RAMBLE, "--no-video"]) == 0
    assert_equal_runs(folder, whole)


def test_a_worker_that_gives_no_answer_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAIT_FOR", str(tmp_path / "never"))
    envs = vector_env("Waiting-v0", 1)
    envs.reset()
    monkeypatch.setattr("dime_robot.training.workers.RESPONSE_LIMIT", 1)
    monkeypatch.setattr("dime_robot.training.workers.CLOSE_LIMIT", 0.1)
    with pytest.raises(InputError, match=r"worker 1 of 1 .* gave no answer within 1 s"):
        envs.step(np.zeros((COUNT, 1), dtype=np.float32))
    envs.close()
    assert not workers_of(os.getpid())


def test_a_worker_is_small(tmp_path: Path) -> None:
    workers = Workers(EnvMaker.of("Ramble-v0", 0), COUNT, 1)
    (pid,) = workers_of(os.getpid())
    assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()
    assert re.search(r"^Threads:\s+1$", Path(f"/proc/{pid}/status").read_text(), re.M)
    workers.close()


# -- as processes --------------------------------------------------------------------------------


@pytest.fixture
def started() -> Iterator[Callable[..., tuple[subprocess.Popen[str], list[int]]]]:
    """Starts runs with two workers in a session of their own; none is left at the end."""
    processes: list[subprocess.Popen[str]] = []

    def start(folder: Path, *options: str) -> tuple[subprocess.Popen[str], list[int]]:
        words = [*SMALL, *STEPS, "--steps", "1000000", "--workers", "2", "--out", str(folder)]
        child = subprocess.Popen(
            [sys.executable, "-m", "dime_robot.train", *words, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(child)
        evaluations = folder / "eval.csv"
        wait_for(lambda: child.poll() is not None or evaluations.exists())
        wait_for(lambda: child.poll() is not None or len(read_eval_csv(evaluations)) > 1)
        found = workers_of(child.pid)
        assert len(found) == 2
        return child, found

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_ctrl_c_at_a_terminal_saves_and_leaves_no_process(started: Any, tmp_path: Path) -> None:
    child, workers = started(tmp_path / "run")
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=60)  # also: no worker holds the pipe open
    assert (child.returncode, err) == (0, "")
    assert f"--resume {tmp_path / 'run'}" in out.splitlines()[-1]
    assert all_ended(workers)
    record = checkpoint.load(tmp_path / "run/ckpt.pt").record
    assert record.step == record.replay.added >= 100


@pytest.mark.slow
def test_workers_of_a_killed_run_end_by_themselves(started: Any, tmp_path: Path) -> None:
    child, workers = started(tmp_path / "run")
    child.kill()
    child.wait()
    wait_for(lambda: all_ended(workers), seconds=2)


@pytest.mark.slow
def test_terminate_to_every_process_of_a_run(started: Any, tmp_path: Path) -> None:
    """As a service manager does: the workers leave the decision to the learner."""
    child, workers = started(tmp_path / "run")
    for pid in (*workers, child.pid):
        os.kill(pid, signal.SIGTERM)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, "")
    assert "stopping at step" in out
    assert all_ended(workers)


@pytest.mark.slow
def test_a_killed_worker_is_one_sentence_and_exit_code_2(started: Any, tmp_path: Path) -> None:
    child, workers = started(tmp_path / "run")
    os.kill(workers[0], signal.SIGKILL)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 2
    assert err.startswith("error: worker 1 of 2 (")
    assert err.count("\n") == 1
    assert all_ended(workers)


@pytest.mark.slow
def test_ctrl_c_ends_a_run_whose_worker_does_not_answer(started: Any, tmp_path: Path) -> None:
    child, workers = started(tmp_path / "run")
    os.kill(workers[1], signal.SIGSTOP)
    wait_for(lambda: sleeps(child.pid))  # not in an evaluation, which needs no worker
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "the last good checkpoint is" in err
    assert all_ended(workers)


@pytest.mark.slow
def test_a_sweep_stops_runs_with_workers_and_resumes_them_with_others(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    options = [word for word in SMALL[2:] if word != "--no-video"]

    def words(workers: int) -> list[str]:
        own = ["--envs", RAMBLE, "--seeds", "0-1", "--jobs", "2", "--out", str(out), "--"]
        return [*own, *options, *STEPS, "--steps", "600", "--workers", str(workers)]

    child = subprocess.Popen([sys.executable, "-m", "dime_robot.sweep", *words(2)])
    try:
        wait_for(lambda: len(list(out.glob("*/eval.csv"))) == 2)
        found = [worker for run in children(child.pid) for worker in workers_of(run)]
        assert len(found) == 4
    finally:
        child.terminate()
        code = child.wait(120)
    assert code == 1
    assert all_ended(found)
    assert sweep.main(words(1)) == 0
    for path in out.glob("*/ckpt.pt"):
        assert checkpoint.load(path).record.config.workers == 1
    assert sweep.main(words(2)) == 0  # nothing is left to do


def test_a_program_trains_with_workers(tmp_path: Path) -> None:
    settings = {"steps": 60, "num_envs": 2, "workers": 2, "random_steps": 30}
    small = {"batch_size": 8, "critic_width": 16, "eval_episodes": 1}
    train_policy(lambda: TimeLimit(Ramble(), 12), preset="tiny", out=tmp_path / "run", quiet=True,
                 **settings, **small)  # fmt: skip
    assert checkpoint.load(tmp_path / "run/ckpt.pt").record.step == 60
    assert not workers_of(os.getpid())
