"""An installation is a ROS package: found by name, started by name, light, and in no one's way."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import runpy
import signal
import subprocess
import sys
import time
import types
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT
from tests.ros_nodes.graph import POLICY, TIMEOUT, domain

pytestmark = pytest.mark.slow
STARTERS = {"policy_node", "sim_node", "latency_monitor", "loopback", "certify", "keyboard_node"}
STARTERS |= {"unitree_driver", "unitree_sim"}
INDEX = "share/ament_index/resource_index/packages/dime_robot"
MISSING = "error: this needs mujoco, gymnasium: pip install"  # how the sentence begins


def run(*command: str | Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run to the end, whatever the exit code."""
    words = list(map(str, command))
    return subprocess.run(words, capture_output=True, text=True, timeout=240, **kwargs)


def install(prefix: Path, *what: str) -> None:
    """A bare virtual environment in which pip installs `what`; modules compile when imported."""
    pip = (sys.executable, "-m", "pip", "--python", prefix / "bin/python3")
    for command in (
        (sys.executable, "-m", "venv", "--without-pip", prefix),
        (*pip, "install", "-q", "--no-compile", *what),
    ):
        done = run(*command, env=clean_environment(os.environ))
        assert done.returncode == 0, done.stdout + done.stderr


def clean_environment(start: Any) -> dict[str, str]:
    """Without what the ROS wheels and this project's tests leave for children of their own."""
    hidden = ("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "LD_LIBRARY_PATH", "PYTHONPATH")
    return {key: value for key, value in start.items() if key not in hidden}


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for all test processes, held by one of them at a time while it is filled."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder /= "packaging"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT]
            done = run(*wheel)
            assert done.returncode == 0, done.stderr
            (path,) = folder.glob("*.whl")
            install(folder / "prefix", f"{path}[cpu,ros]")
            (folder / "ready").touch()
    return folder


@pytest.fixture(scope="module")
def prefix(shared_folder: Path) -> Path:
    """A bare virtual environment with wheel[cpu,ros] in it."""
    return shared_folder / "prefix"


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of a shell in which the virtual environment is not activated, in a ROS domain of its own."""
    with domain() as number:
        yield {
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "ROS_DOMAIN_ID": str(number),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_LOG_DIR": str(tmp_path / "log"),
        }


@contextmanager
def started(words: list[Any], until: str, folder: Path, env: Any) -> Iterator[Any]:
    """A process that has logged something; then SIGTERM must end it with exit code 0."""
    log = folder / "node.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            list(map(str, words)), cwd=folder, env=env, stdout=file, stderr=file
        )
    try:
        end = time.monotonic() + TIMEOUT
        while until not in log.read_text():
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def configuring(*command: Any) -> list[Any]:
    """policy_node that configures itself and then waits."""
    given = ["-p", f"policy:={POLICY}", "-p", "autostart:=configure", "-p", "budget:=5.0"]
    return [*command, *([] if "--ros-args" in command else ["--ros-args"]), *given]


def shared_data(wheel: Path) -> set[str]:
    """What a wheel puts under the prefix."""
    marker = ".data/data/"
    names = zipfile.ZipFile(wheel).namelist()
    return {name.split(marker)[1] for name in names if marker in name}


def test_the_wheel_holds_code_and_ros_files_each_in_its_place(shared_folder: Path) -> None:
    (wheel,) = shared_folder.glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    tops = {name.split("/")[0] for name in names if ".data/" not in name}
    assert tops == {"dime_robot", "export", "ros_nodes", "sim_configs"}
    of_nodes = {name for name in names if name.startswith("ros_nodes/")}
    assert "ros_nodes/policy_node.py" in of_nodes
    assert "ros_nodes/setup.py" not in of_nodes
    assert "ros_nodes/unitree/driver.py" in of_nodes
    folders = {name.rpartition("/")[0] for name in of_nodes}
    assert folders == {"ros_nodes", "ros_nodes/unitree"}
    assert all(name.endswith(".py") for name in of_nodes), of_nodes
    expected = {INDEX, "share/dime_robot/package.xml"}
    expected |= {f"lib/dime_robot/{name}" for name in STARTERS}
    for folder in ("launch", "config"):
        files = (ROOT / "ros_nodes" / folder).iterdir()
        expected |= {f"share/dime_robot/{folder}/{path.name}" for path in files if path.is_file()}
    assert "share/dime_robot/launch/robot.launch.py" in expected
    assert shared_data(wheel) == expected


def test_colcon_delivers_what_the_wheel_delivers(
    shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: dict[str, Any] = {}
    setuptools: Any = types.ModuleType("setuptools")
    setuptools.setup = called.update
    monkeypatch.setitem(sys.modules, "setuptools", setuptools)
    monkeypatch.chdir(ROOT / "ros_nodes")
    runpy.run_path("setup.py")
    got = {
        f"{folder}/{Path(name).name}" for folder, names in called["data_files"] for name in names
    }
    (wheel,) = shared_folder.glob("*.whl")
    assert got == shared_data(wheel)
    assert (called["name"], called["packages"]) == ("dime_robot", [])
    assert called["version"] in wheel.name


def test_the_index_knows_the_package(prefix: Path, environment: Any) -> None:
    code = (
        "from ament_index_python.packages import get_package_share_directory as share\n"
        "print(share('dime_robot'))"
    )
    environment["AMENT_PREFIX_PATH"] = str(prefix)
    done = run(prefix / "bin/python3", "-c", code, env=environment)
    share = Path(done.stdout.strip())
    assert share == prefix / "share/dime_robot", done.stderr
    for name in ("package.xml", "launch/sim.launch.py", "config/policy_node.yaml"):
        assert (share / name).is_file()


@pytest.mark.parametrize("activated", [True, False])
def test_policy_node_starts_configures_and_ends(
    activated: bool, prefix: Path, environment: Any, tmp_path: Path
) -> None:
    if activated:  # for one starter: they differ in their module only
        environment["PATH"] = f"{prefix / 'bin'}:{environment['PATH']}"
    command = configuring(prefix / "lib/dime_robot/policy_node")
    with started(command, "configured: policy cartpole", tmp_path, environment) as process:
        assert Path(f"/proc/{process.pid}/exe").resolve().name.startswith("python")  # one process
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert "onnxruntime" in maps
    assert "libtorch" not in maps and "libmujoco" not in maps


def test_the_parameter_file_reaches_the_node(
    prefix: Path, environment: Any, tmp_path: Path
) -> None:
    text = (prefix / "share/dime_robot/config/policy_node.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("noise: fresh", "noise: zero"))
    for namespace in ("/", "/left/arm"):
        where = ["--ros-args", "-r", f"__ns:={namespace}"]
        command = [prefix / "lib/dime_robot/policy_node", *where, "--params-file", "mine.yaml"]
        with started(configuring(*command), "noise zero", tmp_path, environment):
            pass


def test_latency_monitor_starts(prefix: Path, environment: Any, tmp_path: Path) -> None:
    done = run(
        prefix / "lib/dime_robot/latency_monitor",
        *("--ros-args", "-p", "seconds:=0.2"),
        env=environment,
        cwd=tmp_path,
    )
    assert "waiting for /policy_node/latency" in done.stderr
    assert "Traceback" not in done.stderr


def test_certify_starts(prefix: Path, environment: Any) -> None:
    done = run(prefix / "lib/dime_robot/certify", POLICY, "--calls", "100", env=environment)
    assert done.returncode == 0, done.stderr
    assert "policy     cartpole, 50 Hz" in done.stdout


@pytest.mark.parametrize("name", ["sim_node", "loopback"])
def test_what_needs_a_simulator_is_one_sentence(name: str, prefix: Path, environment: Any) -> None:
    done = run(prefix / "lib/dime_robot" / name, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith(MISSING)
    assert done.stderr.count("\n") == 1


def test_every_starter_is_executable(prefix: Path) -> None:
    files = list((prefix / "lib/dime_robot").iterdir())
    assert {path.name for path in files} == STARTERS
    assert all(os.access(path, os.X_OK) for path in files)


def test_a_starter_finds_its_prefix_from_a_link(
    prefix: Path, environment: Any, tmp_path: Path
) -> None:
    link = tmp_path / "lib/dime_robot/certify"
    link.parent.mkdir(parents=True)
    link.symlink_to(prefix / "lib/dime_robot/certify")
    for called in (link, "./certify"):
        done = run(called, "--help", env=environment, cwd=link.parent)
        assert done.returncode == 0, done.stderr


def test_a_starter_without_an_interpreter_beside_it_takes_the_callers(
    prefix: Path, environment: Any, tmp_path: Path
) -> None:
    copy = tmp_path / "overlay/lib/dime_robot/certify"
    copy.parent.mkdir(parents=True)
    copy.write_bytes((prefix / "lib/dime_robot/certify").read_bytes())
    copy.chmod(0o755)
    path = f"{prefix / 'bin'}:/usr/bin:/bin"
    done = run(copy, "--help", env=environment | {"PATH": path})
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 always looks in this folder")
def test_the_callers_folder_is_not_searched_for_modules(
    prefix: Path, environment: Any, tmp_path: Path
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    done = run(prefix / "lib/dime_robot/certify", "--help", env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_an_editable_installation_is_a_ros_package_too(shared_folder: Path, tmp_path: Path) -> None:
    install(tmp_path / "prefix", "--no-deps", "-e", str(ROOT))
    assert (tmp_path / "prefix" / INDEX).is_file()
    assert (tmp_path / "prefix/share/dime_robot/launch/robot.launch.py").is_file()
    done = run(tmp_path / "prefix/lib/dime_robot/sim_node", env=clean_environment(os.environ))
    assert done.returncode == 2
    assert done.stderr.startswith("error: this needs mujoco, gymnasium, rclpy"), done.stderr


def imported(log: str) -> set[str]:
    """Top-level names out of what `python -X importtime` prints."""
    lines = [line for line in log.splitlines() if line.startswith("import time:")]
    return {line.split("|")[-1].strip().split(".")[0] for line in lines}


def test_policy_node_loads_no_framework_and_no_simulator_though_they_are_there(
    tmp_path: Path,
) -> None:
    heavy = {"torch", "mujoco", "gymnasium", "scipy"}
    assert all(map(importlib.util.find_spec, heavy))
    words = configuring(sys.executable, "-X", "importtime", "-m", "ros_nodes.policy_node")
    with domain() as number:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "ROS_DOMAIN_ID": str(number),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_LOG_DIR": str(tmp_path / "log"),
        }
        with started(words, "configured: policy", tmp_path, environment) as process:
            maps = Path(f"/proc/{process.pid}/maps").read_text()
    modules = imported((tmp_path / "node.log").read_text())
    assert {"rclpy", "onnxruntime", "numpy"} <= modules
    assert not modules & heavy
    assert "onnxruntime" in maps
    assert not [name for name in (*heavy, "libtorch", "libmujoco") if f"/{name}" in maps]
