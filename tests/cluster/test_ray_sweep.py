"""`sweep --ray` on real clusters: killed runs, lost nodes, nodes without the folder, signals."""

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

import pytest

from dime_robot import sweep, train
from dime_robot.cluster.executor import Job
from dime_robot.cluster.run_task import NodeRun, Share, driver_of
from dime_robot.runtime.io.errors import InputError
from dime_robot.training import checkpoint
from tests.test_train import SMALL

TASK, STEPS = "Pendulum-v1", 300
OPTIONS = [*SMALL[2:4], *SMALL[5:], "--checkpoint-interval", "20"]
pytestmark = pytest.mark.filterwarnings(
    # Ray's own: files that it leaves open, and what it says of its settings
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::FutureWarning:ray",
    "ignore::DeprecationWarning:ray",
)


def command(out: Path, *own: str, seeds: str, steps: int = STEPS) -> list[str]:
    words = ["--envs", TASK, "--seeds", seeds, "--out", str(out), *own]
    return [*words, "--", *OPTIONS, "--steps", str(steps)]


def wait_for(condition: Callable[[], Any], seconds: float = 240) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def runs_below(ancestor: int) -> list[int]:
    """Process ids of training runs that a process, or one that it started, has started."""
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if _is_run_below(path, ancestor)
    ]


def _is_run_below(path: Path, ancestor: int) -> bool:
    try:
        is_run = b"dime_robot.train" in path.read_bytes().split(b"\0")
        pid = int(path.parent.name)
        while is_run and pid > 1:
            if (pid := parent(pid)) == ancestor:
                return True
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        pass
    return False


def step_of(path: Path) -> int:
    try:
        return checkpoint.load(path).record.step
    except InputError:
        return -1


def without_time(table: Path) -> list[str]:
    return [line.rpartition(",")[0] for line in table.read_text().splitlines()]


# -- two nodes and one without the folder --------------------------------------------------------


@pytest.fixture
def cluster() -> Iterator[Any]:
    from dime_robot.cluster.connection import ray_module

    ray_module()
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield made
    made.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="hiding a folder from a node needs root")
def test_a_killed_run_and_a_lost_node_change_no_result(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    out.mkdir()
    lost = cluster.add_node(num_cpus=1)
    # a node on which the sweep's folder is another one, with nothing in it
    node = f"mount -t tmpfs none {tmp_path} && exec ray start --num-cpus=2 --block --address="
    words = ["unshare", "-m", "sh", "-c", node + cluster.address]
    search_path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    hidden = subprocess.Popen(
        words, env={**os.environ, "PATH": search_path}, stdout=subprocess.DEVNULL
    )
    raylet = lost.all_processes["raylet"][0].process.pid
    events: list[str] = []

    def interfere() -> None:
        paths = [out / f"{TASK}-seed{seed}/ckpt.pt" for seed in range(4)]
        wait_for(lambda: all(step_of(path) >= 20 for path in paths))
        (on_lost,), on_hidden = runs_below(raylet), runs_below(hidden.pid)
        assert len(on_hidden) == 2
        os.kill(on_hidden[0], signal.SIGKILL)
        events.append("killed")
        cluster.remove_node(lost, allow_graceful=False)
        wait_for(lambda: not Path(f"/proc/{on_lost}").exists(), 60)
        events.append("lost")

    try:
        import ray

        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        wait_for(lambda: ray.cluster_resources().get("CPU") == 4)
        thread = threading.Thread(target=interfere)
        thread.start()
        code = sweep.main(command(out, "--ray", cluster.address, seeds="0-3"))
        thread.join()
    finally:
        ray.shutdown()
        hidden.terminate()
        hidden.wait()
    shown = capsys.readouterr().out
    assert (code, events) == (0, ["killed", "lost"]), shown
    assert shown.count("killed by signal 9; started again, up to 3 times\n") == 2, shown
    assert (shown.count("  started\n"), shown.count("  resumed\n")) == (4, 2)
    logs = [(out / f"{TASK}-seed{seed}.log").read_text() for seed in range(4)]
    assert sum("resumed at step" in log for log in logs) == 2
    assert all(f"eval     {STEPS}  return" in log for log in logs)
    left = {path.name for path in out.iterdir() if TASK not in path.name}
    assert left == {"lock", "summary.md"}

    # the same seeds here, one after another, and the tables of a local sweep
    local = tmp_path / "local"
    for seed in range(4):
        folder = ["--out", str(local / f"{TASK}-seed{seed}"), "--seed", str(seed)]
        assert train.main([*SMALL[:2], "--no-video", *OPTIONS, "--steps", str(STEPS), *folder]) == 0
    capsys.readouterr()
    assert sweep.main(command(local, seeds="0-3")) == 0
    assert without_time(out / f"{TASK}.csv") == without_time(local / f"{TASK}.csv")
    ours, theirs = ((each / "summary.md").read_text() for each in (out, local))
    assert ours.partition("\n")[2] == theirs.partition("\n")[2]
    shutil.rmtree(tmp_path)


# -- one machine ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_ctrl_c_saves_and_a_killed_sweep_leaves_no_run(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "dime_robot.sweep"]
    words += command(tmp_path, "--ray", seeds="0", steps=90_000)
    path = tmp_path / f"{TASK}-seed0/ckpt.pt"
    environment = {name: text for name, text in os.environ.items() if name != "RAY_ADDRESS"}
    for kind in (signal.SIGINT, signal.SIGKILL):
        began = step_of(path)
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment
        )
        try:
            wait_for(lambda n=began, made=process: made.poll() or step_of(path) > max(n, 0))
            assert process.poll() is None
            (run,) = runs_below(process.pid)
            if kind == signal.SIGINT:
                os.killpg(process.pid, kind)  # as a terminal does
            else:
                process.kill()
            shown, _ = process.communicate(timeout=120)
        finally:
            process.kill()
        wait_for(lambda pid=run: not Path(f"/proc/{pid}").exists(), 60)
        if kind == signal.SIGINT:
            assert process.returncode == 1, shown
            assert f"[1/1] {TASK} seed 0  stopped\n" in shown
            assert shown.splitlines()[-1].startswith("next       python -m dime_robot.sweep")
            log = path.parent.with_suffix(".log").read_text()
            assert f"stopped at step {step_of(path):,} of 90,000" in log
        else:
            assert process.returncode == -signal.SIGKILL
            assert "resumed\n" in shown


# -- parts ---------------------------------------------------------------------------------------


class Scripted:
    """An executor whose runs end with given exit codes."""

    def __init__(self, codes: list[int], retries: int) -> None:
        self.retries, self._codes = retries, codes

    def launch(self, job: Job, started: Callable[[], object]) -> int | None:
        started()
        job.log.touch()
        return self._codes.pop(0)

    def stop(self, *, kill: bool) -> None:
        pass


@pytest.mark.parametrize(
    ("codes", "retries", "attempts", "reason"),
    [
        ([-9] * 9, 3, 4, "killed by signal 9"),
        ([-9] * 9, 0, 1, "killed by signal 9"),
        ([-9, 130, 0, 2, 0], 9, 4, "exit code 2"),  # 0: it saved and ended after a signal
        ([2, 0], 3, 1, "exit code 2"),
        ([1, 0], 3, 1, "exit code 1"),
    ],
)
def test_a_run_is_started_again_a_bounded_number_of_times_and_not_after_its_own_error(
    codes: list[int],
    retries: int,
    attempts: int,
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, runs = sweep.plan([TASK], [0], tmp_path, [])
    made = sweep.Sweep(runs, [], 1, Scripted(codes, retries))
    made.work()
    shown = capsys.readouterr().out
    assert shown.count("  started\n") == attempts
    assert shown.count("; started again, up to ") == attempts - 1
    assert made.failures == {1: reason}


def test_what_a_node_lacks_is_one_sentence(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    with driver_of(tmp_path) as driver:
        job = Job(("python",), ("python",), tmp_path / "run", tmp_path / "run.log", (own,))
        run = NodeRun(job, driver)
        assert run.shared
        with pytest.raises(InputError, match=f"^{own}: expected this file at the same path on ev"):
            run.start()
    run = NodeRun(job, driver)  # the token is gone: as on a node that does not see the folder
    assert not run.shared
    folder = run.files.path.parent
    assert folder.is_dir() and tmp_path not in folder.parents
    run.close()
    assert not folder.exists()
    assert not list(tmp_path.iterdir())


def test_a_relative_folder_is_one_of_where_the_command_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with driver_of(Path()) as driver:
        monkeypatch.chdir("/")  # as a Ray process
        words = (sys.executable, "-c", "import sys; print(sys.argv[1])", "run")
        run = NodeRun(Job(words, words, Path("run"), Path("run.log")), driver)
        run.start()
        wait_for(lambda: run.poll().code == 0, 30)
    assert (tmp_path / "run.log").read_text() == f"{tmp_path / 'run'}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "1"], "--gpus: expected only together with --ray or --tune"),
        (["--retries", "1"], "--retries: expected only together with --ray or --tune"),
        (["--samples", "3"], "--samples: expected only together with --tune"),
        (["--ray", "--retries", "-1"], "--retries: expected at least 0, got -1"),
        (["--ray", "--cpus", "1.5"], "--cpus 1.5: expected a whole number, or a fraction below 1"),
        (["--ray", "--cpus", "nan"], "--cpus nan: expected a whole number"),
        (["--tune", "x.yaml"], "--tune: expected --samples K with it"),
        (["--tune", "x.yaml", "--samples", "0"], "--samples: expected at least 1, got 0"),
        (["--tune", "none.yaml", "--samples", "1"], "none.yaml: expected a configuration, got non"),
    ],
)
def test_wrong_options_are_one_sentence(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}") as error:
        sweep.main(["--envs", TASK, "--seeds", "0", "--out", str(tmp_path / "x"), *words])
    assert "\n" not in str(error.value)


def test_a_share_that_no_node_has_is_refused() -> None:
    class Ray:
        @staticmethod
        def nodes() -> list[dict[str, Any]]:
            return [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {}}]

    Share(2.0, 0.0).require_possible(Ray)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"got nodes with 2 CPUs and 0 GPUs; give less"):
        Share(1.0, 0.25).require_possible(Ray)  # type: ignore[arg-type]


def test_a_local_sweep_imports_no_ray() -> None:
    code = (
        "import sys, dime_robot, dime_robot.sweep, dime_robot.sweep_plan;"
        " assert not [name for name in sys.modules if name.partition('.')[0] == 'ray']"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
