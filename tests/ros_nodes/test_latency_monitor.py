"""latency_monitor: what it records is what was published, and the page shows just that."""

from __future__ import annotations

import json
import signal
import time
from array import array
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.duration import Duration
from rclpy.qos import QoSProfile
from std_msgs.msg import Float64MultiArray, MultiArrayDimension, String

from benchmarks.made_policy import made_policy
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.runtime.telemetry.latency import SAMPLE_LABEL, read_distribution
from ros_nodes import diagnostics
from ros_nodes.conversions import PHASE_QOS
from ros_nodes.latency_monitor import FaultLog, PhaseLog, SampleStore
from ros_nodes.latency_record import MAX_PHASES, SeenPhase, read_record
from tests.ros_nodes.graph import POLICY, Graph
from tests.ros_nodes.records import FIELDS, RATE, some_samples


def sample_message(sample: Any, label: str = SAMPLE_LABEL) -> Float64MultiArray:
    message = Float64MultiArray(data=array("d", sample))
    message.layout.dim = [MultiArrayDimension(label=label, size=len(FIELDS))]
    return message


def control(level: bytes, message: str, node: str = "/policy_node") -> DiagnosticStatus:
    response = message.partition(":")[0].partition(";")[0].replace("running", "run")
    values = {"answer": response, "policy": "cartpole 49c80b6c6a66", "selected": "walk"}
    name = diagnostics.entry_name(node, diagnostics.CONTROL)
    return diagnostics.status(name, "cart", level, message, values)


@pytest.mark.slow
def test_what_is_published_is_what_is_written(graph: Graph) -> None:
    folder = graph.folder / "new/latency"
    folder.mkdir(parents=True)
    (folder / "latency.html").write_text("of an earlier run")
    samples = some_samples(300)
    samples[200:, 0] += 3 / RATE  # as if three steps had been lost
    publisher = graph.node.create_publisher(
        Float64MultiArray, "policy_node/latency", QoSProfile(depth=1000)
    )
    reports = graph.node.create_publisher(DiagnosticArray, "/diagnostics", 10)
    phases = graph.node.create_publisher(String, "policy_node/phase", PHASE_QOS)
    phases.publish(String(data="stand_up walk"))  # before the monitor starts
    graph.start("latency_monitor", folder=folder)
    graph.until(publisher.get_subscription_count, "the monitor")
    graph.until(lambda: reports.get_subscription_count() == 2, "the monitor and the watcher")
    graph.until(phases.get_subscription_count, "the monitor")
    assert phases.wait_for_all_acked(Duration(seconds=10))
    publisher.publish(sample_message(np.zeros(len(FIELDS)), label="of,another,version"))
    began = time.monotonic()
    for sample in samples[:100]:
        publisher.publish(sample_message(sample))
    graph.until(lambda: "recording\n" in graph.log("latency_monitor"), "a sample")
    stop = control(DiagnosticStatus.ERROR, "stop: overrun")
    for _ in range(2):  # a fault that lasts is repeated with every report
        reports.publish(diagnostics.array(graph.node.get_clock().now().to_msg(), stop))
    # the monitor is another process; this shows only that it has received them
    assert reports.wait_for_all_acked(Duration(seconds=10))
    phases.publish(String(data="policy walk"))
    graph.spin(0.5)
    for sample in samples[100:]:
        publisher.publish(sample_message(sample))
    assert publisher.wait_for_all_acked(Duration(seconds=10))
    graph.spin(1.0)
    assert (folder / "latency.html").read_text() == "of an earlier run"
    code, _ = graph.end("latency_monitor", signal.SIGINT)
    took = time.monotonic() - began
    log = graph.log("latency_monitor")
    assert code == 0, log

    written = {path.name for path in folder.iterdir()}
    lists = {"observation_latency.json", "end_to_end_latency.json"}
    assert written == {"latency.npz", "latency.html"} | lists
    assert all(str(folder / name) in log for name in written)
    with np.load(folder / "latency.npz", allow_pickle=False) as file:
        assert file["samples"].dtype == np.float64
        np.testing.assert_array_equal(file["samples"], samples)
        meta = json.loads(str(file["meta"]))
    assert meta["fields"] == list(FIELDS)
    assert (meta["policy"], meta["policy_digest"]) == ("cartpole", "49c80b6c6a66")
    assert (meta["robot"], meta["lost"], meta["topic"]) == ("cart", 3, "/policy_node/latency")
    (fault,) = meta["faults"]
    assert fault["text"] == "/policy_node: control: stop: overrun"
    # on the clock of the samples, whose own times say nothing about when they were published
    assert samples[0, 0] <= fault["time"] <= samples[99, 0] + took
    assert meta["phases"] == [
        {"time": samples[0, 0], "text": "stand_up walk"},
        {"time": samples[100, 0], "text": "policy walk"},
    ]
    assert meta["node"] == "/policy_node"
    assert log.count("expected samples of time,age_by_stamp") == 1
    assert "/policy_node: control: stop: overrun" in log

    for name, quantity in zip(sorted(lists), ("end_to_end", "age_by_stamp"), strict=True):
        distribution = read_distribution(folder / name)
        assert (distribution.quantity, distribution.samples) == (quantity, 300)
        assert distribution.rate == pytest.approx(RATE, rel=0.01)
        assert distribution.policy_digest == "49c80b6c6a66"
        values = samples[:, FIELDS.index(quantity)]
        assert distribution.quantiles == tuple(np.quantile(values, np.linspace(0, 1, 101)))
        p99 = f"{1e3 * np.percentile(values, 99):.3f}"
        assert p99 in log
        assert p99 in (folder / "latency.html").read_text()


@pytest.mark.slow
def test_no_sample_is_exit_code_1(graph: Graph) -> None:
    process = graph.start("latency_monitor", folder="record", seconds=0.5, node="ns/other")
    process.wait(30)
    assert process.returncode == 1
    words = "error: no sample came on /ns/other/latency within "
    assert words in graph.log("latency_monitor")
    assert not list((graph.folder / "record").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameter", "value"), [("folder", "file/below"), ("node", "no name"), ("node", "''")]
)
def test_what_cannot_work_is_refused_at_the_start(parameter: str, value: str, graph: Graph) -> None:
    (graph.folder / "file").write_text("")
    process = graph.start("latency_monitor", **{parameter: value})
    process.wait(30)
    assert process.returncode == 2
    (line,) = [x for x in graph.log("latency_monitor").splitlines() if x.startswith("error")]
    assert line.startswith(f"error: parameter {parameter}: expected ")
    assert not list(graph.folder.rglob("latency.*"))


@pytest.mark.slow
def test_a_real_run(graph: Graph) -> None:
    graph.start("latency_monitor", folder="record")
    graph.start("sim_node")
    graph.policy_node()
    graph.running()
    graph.until(lambda: "recording\n" in graph.log("latency_monitor"), "a sample")
    graph.spin(2.0)
    graph.set_fault("freeze_stamp")
    graph.until(lambda: any(report[3].startswith("stop") for report in graph.reports), "the stop")
    graph.spin(0.5)
    code, _ = graph.end("latency_monitor", signal.SIGTERM)
    assert code == 0, graph.log("latency_monitor")
    record = read_record(graph.folder / "record/latency.npz")
    policy = OnnxPolicy(POLICY)
    assert record.header.policy == policy.spec.name
    assert record.header.policy_digest == policy.file.policy_digest[:12]
    assert record.header.robot == "cartpole"
    assert record.header.rate == pytest.approx(policy.spec.rate, rel=0.1)
    assert record.header.lost == 0
    assert [phase.text for phase in record.header.phases] == ["policy"]
    assert record.header.phases[0].time == record.samples[0, 0]
    assert len(record.samples) > policy.spec.rate
    stop = [fault for fault in record.header.faults if "stop: observation_stale" in fault.text]
    assert record.samples[0, 0] < stop[0].time < record.samples[-1, 0] + 1
    assert (record.column("end_to_end") >= record.column("inference")).all()


@pytest.mark.slow
def test_two_robots_in_two_namespaces_never_mix(graph: Graph) -> None:
    """Two policies, one fault, one monitor each, on one /diagnostics."""
    other = made_policy(graph.folder / "other.onnx", OnnxPolicy(POLICY).spec, 32, 2, 4)
    policies = {"left": POLICY, "right": other}
    for side, policy in policies.items():
        namespace = ("-r", f"__ns:=/{side}")
        graph.start("latency_monitor", *namespace, folder=side)
        graph.start("sim_node", *namespace)
        graph.policy_node(*namespace, policy=policy, recordings=graph.folder / f"{side}_flights")
    for side in policies:
        graph.until(
            lambda side=side: "recording\n" in graph.log(f"{side}_latency_monitor"), "a sample"
        )
    assert graph.trigger("/left/policy_node/estop").success
    graph.until(
        lambda: any(
            name == "/left/policy_node: control" and values.get("answer") == "stop"
            for _, name, _, _, values in graph.reports
        ),
        "the stop on /diagnostics",
    )
    graph.spin(1.2)  # a report of either
    names = {name for _, name, _, _, _ in graph.reports}
    assert names == {
        f"/{side}/policy_node: {what}" for side in policies for what in ("control", "latency")
    }
    digests = {}
    for side, policy in policies.items():
        assert graph.end(f"{side}_latency_monitor")[0] == 0
        header = read_record(graph.folder / side / "latency.npz").header
        digests[side] = header.policy_digest
        assert header.node == f"/{side}/policy_node"
        assert header.policy_digest == OnnxPolicy(policy).file.policy_digest[:12]
        faults = [fault.text for fault in header.faults]
        assert any("stop: estop" in text for text in faults) == (side == "left")
        assert all(text.startswith(f"/{side}/policy_node: ") for text in faults)
        page = (graph.folder / side / "latency.html").read_text()
        assert f"/{side}/policy_node" in page
        assert digests[side] in page
    assert digests["left"] != digests["right"]


def test_memory_grows_to_its_limit_and_no_further() -> None:
    store, samples = SampleStore(20_005), some_samples(20_009)
    assert store.samples().shape == (0, len(FIELDS))
    for sample in samples:
        store.add(sample)
    assert store.full
    np.testing.assert_array_equal(store.samples(), samples[:20_005])


def test_a_fault_is_recorded_once_when_it_begins() -> None:
    log = FaultLog("/left/policy_node")
    watched = "/left/policy_node"
    ok, hold, stop = (
        control(DiagnosticStatus.OK, "running", watched),
        control(DiagnosticStatus.WARN, "hold: imu_stale", watched),
        control(DiagnosticStatus.STALE, "stop: observation_stale", watched),
    )
    others = [
        control(DiagnosticStatus.ERROR, "stop: broken", node=node)
        for node in ("/left/policy_node_2", "/right/policy_node", "/policy_node", "policy_node")
    ]
    text = "running; since the last report overrun in 1 steps"
    warned = control(DiagnosticStatus.WARN, text, watched)
    received = [ok, hold, hold, stop, stop, warned, stop]
    for second, entry in enumerate(received):
        log.add(entry, float(second), None if second < 3 else 100.0)
        for other in others:
            log.add(other, float(second), 100.0)
    assert [(fault.time, fault.text.split(": ", 2)[2]) for fault in log.faults(50.0)] == [
        (51.0, "hold: imu_stale"),
        (103.0, "stop: observation_stale"),
        (106.0, "stop: observation_stale"),
    ]
    assert (log.policies, log.robot) == ({"cartpole 49c80b6c6a66": "walk"}, "cart")


def test_a_phase_begins_with_its_first_step() -> None:
    log = PhaseLog()
    log.enter("stand_up", 10.0)  # received long before the first sample
    log.step(1000.0, 980.0)
    log.step(1000.1, 980.0)
    log.enter("policy", 20.11)
    log.step(1000.2, 980.0)
    for now, text in ((30.0, "sit_down"), (31.0, "passive"), (40.0, "stand_up")):
        log.enter(text, now)  # while the node leads the robot to rest there is no sample
    log.step(1020.5, 980.0)
    log.enter("sit_down", 50.0)
    assert log.phases(980.0) == (
        SeenPhase(time=1000.0, text="stand_up"),
        SeenPhase(time=1000.2, text="policy"),
        SeenPhase(time=1010.0, text="sit_down"),
        SeenPhase(time=1011.0, text="passive"),
        SeenPhase(time=1020.5, text="stand_up"),
        SeenPhase(time=1030.0, text="sit_down"),
    )


def test_phases_are_bounded_in_number_and_length() -> None:
    log = PhaseLog()
    for second in range(MAX_PHASES + 5):
        log.enter("x" * 100_000, second)
        if second % 2:
            log.step(second, 0.0)
    assert len(log.phases(0.0)) == MAX_PHASES
    assert {len(phase.text) for phase in log.phases(0.0)} == {256}
