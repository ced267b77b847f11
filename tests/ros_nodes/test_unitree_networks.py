"""A driver between two networks: the robot's cable, and the one of the ROS graph.

Three machines, made of network namespaces: a robot on Cyclone DDS with multicast, the driver's
computer with a cable to it and another network, and a laptop on that one.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.paths import ROOT

ROBOT, PC, PC_OUTSIDE, LAPTOP = "192.168.123.161", "192.168.123.99", "10.99.7.1", "10.99.7.2"
ROBOT_DOMAIN, ROS_DOMAIN = 0, 1  # as on a robot: the namespaces are no one else's
TIMEOUT = 40.0  # [s]
LISTENER = """
import sys, time, json
import rclpy
from sensor_msgs.msg import JointState
from rclpy.qos import QoSProfile, ReliabilityPolicy
rclpy.init()
node = rclpy.create_node("laptop")
received = []
qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
node.create_subscription(JointState, "joint_states", received.append, qos)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end and len(received) < 50:
    rclpy.spin_once(node, timeout_sec=0.1)
topics = sorted(name for name, _ in node.get_topic_names_and_types())
print(json.dumps([len(received), topics]))
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


class Networks:
    """Three namespaces and the two networks between them."""

    def __init__(self) -> None:
        tag = secrets.token_hex(3)
        self.names = {name: f"dr{tag}{name}" for name in ("robot", "pc", "laptop")}

    def make(self) -> None:
        robot, pc, laptop = self.names.values()
        for name in self.names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
            # Fast DDS takes the machine's id for what is on the same computer
            folder = Path("/etc/netns") / name
            folder.mkdir(parents=True)
            (folder / "machine-id").write_text(secrets.token_hex(16) + "\n")
        ends = [(pc, "cable", PC), (robot, "eth0", ROBOT), (pc, "air", PC_OUTSIDE)]
        ends.append((laptop, "wlan0", LAPTOP))
        for (one, link, _), (other, peer, _) in (ends[:2], ends[2:]):
            ip("link", "add", link, "netns", one, "type", "veth", "peer", peer, "netns", other)
        for name, link, address in ends:
            ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
        ip("-n", pc, "route", "add", "default", "via", LAPTOP)
        ip("-n", laptop, "route", "add", "default", "via", PC_OUTSIDE)
        ip("-n", robot, "route", "add", "default", "via", PC)

    def on(self, name: str, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.names[name], *words]

    def remove(self) -> None:
        for name in self.names.values():
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)


@pytest.fixture
def networks() -> Iterator[Networks]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("three machines of network namespaces need root and the command ip")
    found = Networks()
    try:
        try:
            found.make()
        except (subprocess.CalledProcessError, OSError) as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        yield found
    finally:
        found.remove()


@pytest.mark.slow
def test_the_robots_network_and_that_of_the_graph_stay_apart(
    networks: Networks, unitree_messages: Path, cyclone_peer: Path, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{unitree_messages}",
        "ROS_DOMAIN_ID": str(ROS_DOMAIN),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
    }
    python = sys.executable
    parameters = {
        "interface": "cable",
        "robot_domain": ROBOT_DOMAIN,
        "policy": ROOT / "results/go2/policy.onnx",
        "mode_service": "none",
    }
    given = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    peer = networks.on("robot", str(cyclone_peer), str(ROBOT_DOMAIN), "90", "500", "0", "eth0")
    driver = networks.on("pc", python, "-m", "ros_nodes.unitree.driver", "--ros-args", *given)
    release = (
        "import rclpy; from std_srvs.srv import Trigger; rclpy.init();"
        "node = rclpy.create_node('operator');"
        "client = node.create_client(Trigger, '/unitree_driver/release_mode');"
        "assert client.wait_for_service(20); future = client.call_async(Trigger.Request());"
        "rclpy.spin_until_future_complete(node, future, timeout_sec=10);"
        "print(future.result().success)"
    )

    def on_laptop(code: str, domain: int, *words: str) -> str:
        done = subprocess.run(
            networks.on("laptop", python, "-c", code, *words),
            env={**environment, "ROS_DOMAIN_ID": str(domain)},
            capture_output=True, text=True, timeout=TIMEOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    log = tmp_path / "driver.log"
    robot = subprocess.Popen(peer, stdout=subprocess.PIPE, text=True)
    with log.open("w") as output:
        process = subprocess.Popen(driver, env=environment, stdout=output, stderr=output)
    try:
        received, topics = json.loads(on_laptop(LISTENER, ROS_DOMAIN, "25"))
        assert received >= 50, log.read_text()
        assert not {"/lowcmd", "/lowstate"} & set(topics)
        assert on_laptop(release, ROS_DOMAIN).strip() == "True"
        # another node on the robot's domain number, on the wrong network, finds nobody
        received, topics = json.loads(on_laptop(LISTENER, ROBOT_DOMAIN, "5"))
        assert received == 0
        assert not {"/lowcmd", "/lowstate"} & set(topics)
        time.sleep(3.0)
        assert process.poll() is None
        assert robot.poll() is None, "the robot's low-level process has died"
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        robot.terminate()
        out = robot.communicate(timeout=TIMEOUT)[0]
        for each in (process, robot):
            if each.poll() is None:
                each.kill()
    report = json.loads(out.strip().splitlines()[-1])
    assert report["received"] > 500
    assert report["bad_crc"] == 0
    assert report["writers"] == 1
