"""Training on a real Ray cluster: lost workers and nodes, files that travel, what listens."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from dime_robot import evaluate_policy, train_policy
from dime_robot.cluster import remote_rollouts
from dime_robot.cluster.connection import connected
from dime_robot.cluster.remote_rollouts import RemoteRollouts
from dime_robot.learning.config import TrainConfig
from dime_robot.runtime.io.errors import InputError
from dime_robot.training import checkpoint
from dime_robot.training.env_maker import EnvMaker
from dime_robot.training.run import EvaluationEvent
from export import onnx

pytestmark = [
    pytest.mark.slow,
    # Ray leaves pipes and files of the processes that it starts to the garbage collector, and
    # reads its own deprecated names
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]
SIZES: dict[str, Any] = {
    "preset": "tiny",
    "steps": 50_000,  # stopped long before
    "num_envs": 4,
    "workers": 2,
    "update_to_data": 0.1,
    "random_steps": 256,
    "batch_size": 16,
    "actor_width": 16,
    "critic_width": 16,
    "eval_interval": 512,
    "eval_episodes": 1,
    "checkpoint_interval": 512,
    "n_step": 2,
    "normalize_observations": True,
}
# its code refuses to run from the driver's folder anywhere but in the driver
TERM = '''"""A term of the user's own."""

import os


def stay(view) -> float:
    """Stay [1]."""
    here = __file__.startswith({folder!r})
    assert here == (os.getpid() == {driver}), "not the file that travelled"
    return 1.0
'''


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head and a second node with one place each, begun in another folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    from ray.cluster_utils import Cluster

    with monkeypatch.context() as there:
        there.chdir(elsewhere)
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        found.second = found.add_node(num_cpus=1)
    yield found
    found.shutdown()


def own_task(folder: Path) -> Path:
    folder.mkdir()
    (folder / "terms.py").write_text(TERM.format(folder=str(folder), driver=os.getpid()))
    rewards = {"stay": {"term": "terms.py:stay", "weight": 1.0}}
    file = folder / "own.yaml"
    task = {"episode_seconds": 1.0, "rewards": rewards, "success": {"stands": None}}
    file.write_text(yaml.safe_dump({"extends": "sim:cartpole", "task": task}))
    return file


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def test_a_run_goes_on_without_a_worker_and_without_a_node(
    cluster: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(remote_rollouts, "START_PATIENCE", 3.0)
    env = f"sim:{own_task(tmp_path / 'task')}"
    made: list[RemoteRollouts] = []

    def after(event: EvaluationEvent) -> bool:
        """Kill the head's worker at step 512 and the other node at 1024; stop once both are known.

        Until then the second node's worker has to go on alone, then the new one of the head.
        """
        if event.step == 512:
            raylet = cluster.second.all_processes["raylet"][0].process.pid
            running = [each.process for each in made[0].places if each is not None]
            (first,) = [pid for pid in running if pid not in descendants(raylet)]
            os.kill(first, signal.SIGKILL)
        elif event.step == 1024:
            cluster.remove_node(cluster.second, allow_graceful=False)
        return event.step < 1536 or made[-1].figures()["ray/restarts"] < 2

    with connected(cluster.address) as ray:

        def rollouts(
            config: TrainConfig, maker: EnvMaker, log: Callable[[str], None]
        ) -> RemoteRollouts:
            made.append(RemoteRollouts(ray, config, maker, log))
            return made[-1]

        out = tmp_path / "run"
        train_policy(env, ray=True, rollouts=rollouts, out=out, callback=after, **SIZES)
        text = capsys.readouterr().out
        for number in (1, 2):
            assert f"worker {number} of 2 is lost on " in text
        assert "1 of 2 workers have not begun, which need a node with a free CPU" in text
        record = checkpoint.load(out / "ckpt.pt").record
        assert record.replay.added == record.step > 1500
        assert (
            len([row for _, rows in record.replay.checked_rows(out) for row in rows]) >= record.step
        )
        assert record.updates == record.config.updates_at(record.step)
        assert (
            record.provenance["rollouts"] == f"Ray {ray.__version__}, asynchronous, not repeatable"
        )
        figures = made[0].figures()
        assert figures["ray/restarts"] >= 2 and 2 <= figures["ray/lost_messages"] <= 6
        assert sum(record.restarts) >= 4  # both workers, and one that was asked for after each loss
        assert yaml.safe_load((out / "config.yaml").read_text())["ray"] is True
        assert evaluate_policy(out / "ckpt.pt", env=env, episodes=1).episodes
        assert onnx.main([str(out / "ckpt.pt"), "--config", env.removeprefix("sim:")]) == 0

        # with one worker, for which there is room; counts go on, and none begins as one before
        def stop(event: EvaluationEvent) -> bool:
            return False

        more: dict[str, Any] = {"rollouts": rollouts, "resume": out, "workers": 1}
        train_policy(env, callback=stop, **more)
        after_it = checkpoint.load(out / "ckpt.pt").record
        assert after_it.restarts[0] == record.restarts[0] + 1
        assert after_it.restarts[1] == record.restarts[1]
        assert after_it.replay.added == after_it.step > record.step

        # no room for any: saved, and one sentence
        monkeypatch.setattr(remote_rollouts, "SILENCE", 2.0)
        taken = ray.remote(num_cpus=1)(Taken).remote()
        ray.get(taken.here.remote())
        with pytest.raises(InputError, match=r"from any of 1 workers for 2 s, none .* is saved"):
            train_policy(env, **more)


class Taken:
    """Takes the place of a worker."""

    def here(self) -> bool:
        return True


def descendants(pid: int) -> set[int]:
    found = {pid}
    for line in subprocess.check_output(["ps", "-eo", "pid=,ppid="], text=True).splitlines():
        child, parent = map(int, line.split())
        if parent in found:
            found.add(child)
    return found - {pid}


def listening(pids: set[int]) -> set[str]:
    """Addresses, as /proc/net/tcp has them, at which some processes listen."""
    inodes = set()
    for file in (file for pid in pids for file in Path(f"/proc/{pid}/fd").glob("*")):
        with suppress(OSError):  # it is closed meanwhile
            inodes |= set(re.findall(r"socket:\[(\d+)\]", str(file.readlink())))
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


def test_a_cluster_of_this_machine_listens_on_loopback_and_ends_with_the_program(
    tmp_path: Path,
) -> None:
    words = ["--ray", "--workers", "1", "--steps", "1000000", "--update-to-data", "0.01"]
    words += ["--env", "Pendulum-v1", "--preset", "tiny", "--out", str(tmp_path / "run")]
    log = tmp_path / "log"
    with log.open("w") as output:
        driver = subprocess.Popen(
            [sys.executable, "-m", "dime_robot.train", *words],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: "step   " in log.read_text() or driver.poll() is not None)
        assert driver.poll() is None, log.read_text()
        text = log.read_text()
        assert "asynchronous" in text and "oken" not in text
        started = descendants(driver.pid)
        names = [command_line(pid) for pid in started]
        assert any(b"raylet" in name for name in names)
        addresses = listening({driver.pid, *started})
        assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}, addresses
        assert addresses
    finally:
        driver.kill()
        driver.wait()
    # two idle helpers of Ray's take a minute: they try to report that their parent ended
    left = [pid for pid in started if b"Agent" not in command_line(pid)]
    wait_for(lambda: not [pid for pid in left if command_line(pid)], 30)
    for pid in started - set(left):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # it has ended
