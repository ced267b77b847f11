"""The record of a run, its page, and the layouts of other tools for the same topics."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.regular_files import write_atomically
from dime_robot.runtime.telemetry.latency import read_distribution
from ros_nodes import diagnostics, latency_page
from ros_nodes.latency_monitor import describe, write_all
from ros_nodes.latency_page import MAX_FAULTS, MAX_PHASES, histogram, page, time_line
from ros_nodes.latency_record import (
    LatencyRecord,
    SeenFault,
    SeenPhase,
    distributions,
    longest_streak,
    lost_samples,
    read_record,
    write_distribution,
    write_record,
)
from tests.paths import ROOT
from tests.ros_nodes.records import FIELDS, RATE, record_of, some_samples

CONFIG = ROOT / "ros_nodes/config"


def test_lost_samples_are_distinguished_from_a_pause() -> None:
    samples = some_samples(1000)
    assert lost_samples(samples) == 0
    assert lost_samples(np.delete(samples, [10, 400, 401, 402, 990], axis=0)) == 5
    paused = samples.copy()
    paused[500:, 0] += 7.0
    paused[500, FIELDS.index("period")] = 1 / RATE  # the first step after an activation
    assert lost_samples(paused) == 0
    assert lost_samples(samples[:1]) == 0


@pytest.mark.parametrize(
    ("missed", "longest"), [("", 0), ("0", 0), ("1", 1), ("0110111", 3), ("11101", 3)]
)
def test_longest_streak(missed: str, longest: int) -> None:
    assert longest_streak(np.array([digit == "1" for digit in missed], dtype=bool)) == longest


def test_the_age_by_receipt_counts_where_the_robots_clock_is_ahead() -> None:
    samples = some_samples(100)
    samples[:, FIELDS.index("age_by_stamp")] -= 1.0
    found = distributions(record_of(samples))["observation_latency.json"]
    assert found.quantity == "age_by_receipt"
    assert found.quantiles[100] == samples[:, FIELDS.index("age_by_receipt")].max()


def test_an_age_before_the_first_reading_spoils_nothing(tmp_path: Path) -> None:
    samples = some_samples(50)
    samples[0, FIELDS.index("age_by_stamp")] = np.inf
    record = record_of(samples)
    age = distributions(record)["observation_latency.json"]
    assert read_distribution(write_distribution(age, tmp_path / "age.json")).samples == 49
    assert not re.search(r"\b(nan|inf)\b", page(record))


def test_only_what_the_policy_acted_on_is_for_training() -> None:
    samples = some_samples(200)
    samples[50:90, FIELDS.index("inference")] = 0.0  # as policy_node says it: not asked
    samples[50:90, FIELDS.index("age_by_stamp")] = 0.8
    record = record_of(samples)
    age = distributions(record)["observation_latency.json"]
    assert age.samples == 160
    assert age.quantiles[100] < 0.1
    assert record.summary()["inference"]["p50"] > 0
    assert "40 steps (held, damped or stopped)" in page(record)


def test_steps_are_told_apart_by_policy_and_phase(tmp_path: Path) -> None:
    samples = some_samples(1000)
    inference, missed = FIELDS.index("inference"), FIELDS.index("missed")
    samples[100:300, inference] = samples[700:750, inference] = 0.0  # 50 of them are held
    samples[:, missed] = 0
    samples[600:620, missed] = 1
    begins = {100: "stand_up walk", 300: "policy walk", 600: "policy run", 800: "policy walk"}
    phases = tuple(SeenPhase(time=samples[i, 0], text=text) for i, text in begins.items())
    phases += (SeenPhase(time=samples[-1, 0] + 1, text="sit_down $walk"),)
    path = write_record(record_of(samples, phases=phases), tmp_path / "latency.npz")
    record = read_record(path)

    def times(*steps: slice) -> tuple[str, ...]:
        found = 1e3 * np.concatenate([samples[each, inference] for each in steps])
        return tuple(f"{time:.3f}" for time in np.percentile(found[found > 0], (50, 99)))

    rows = [
        ("unknown", "100", "0", *times(slice(0, 100))),
        ("stand_up walk", "200", "0", "-", "-"),
        ("policy walk", "500", "0", *times(slice(300, 600), slice(800, 1000))),
        ("policy run", "200", "20", *times(slice(600, 800))),
        ("sit_down $walk", "0", "0", "-", "-"),
    ]
    assert record.phase_rows() == rows
    text, console = page(record), describe(record)
    for row in rows:
        assert f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" in text
        assert any(tuple(line.rsplit(maxsplit=4)) == row for line in console.splitlines())
    assert "250 steps (200 in other phases, 50 held, damped or stopped)" in text
    drawn = re.findall(r"<text[^>]*rotate\(-90\)[^>]*>([^<]*)</text>", time_line(record))
    assert [name.strip() for name in drawn if "[ms]" not in name] == [*begins.values(), rows[-1][0]]


def test_a_record_without_phases_shows_none(tmp_path: Path) -> None:
    """One of an earlier version, and one of a robot whose only policy always acts."""
    samples = some_samples(100)
    record = record_of(samples)
    meta = record.header.model_dump()
    del meta["phases"]
    np.savez(tmp_path / "old.npz", samples=samples, meta=np.array(json.dumps(meta)))
    always = record_of(samples, phases=(SeenPhase(time=samples[0, 0], text="policy"),))
    for each in (read_record(tmp_path / "old.npz"), always):
        assert not each.phase_rows()
        assert describe(each) == describe(record)
    assert not re.search("Phases|begin a phase", page(always))


def test_more_phases_than_fit_are_counted() -> None:
    samples = some_samples(3000)
    phases = tuple(SeenPhase(time=samples[3 * i, 0], text=f"policy {i}") for i in range(1000))
    text = page(record_of(samples, phases=phases))
    assert f"And {1000 - MAX_PHASES} more." in text
    assert f"Only the first {MAX_PHASES} are shown." in text
    assert len(text.encode()) < 300_000


def test_skipped_periods_are_counted() -> None:
    samples = some_samples(100)
    samples[[20, 50], FIELDS.index("period")] = 2 / RATE, 4 / RATE
    assert dict(record_of(samples).about())["skipped periods"] == "4, without a step"


def test_digests_of_many_policies_fit_into_a_distribution() -> None:
    found = distributions(record_of(some_samples(100), policy_digest="49c80b6c6a66 and " * 50))
    assert len(found["end_to_end_latency.json"].policy_digest) == 256


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "latency.npz"
    write_record(record_of(some_samples(5)), path)

    def fail(file: BinaryIO) -> None:
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        write_atomically(path, fail)
    assert len(read_record(path).samples) == 5
    assert list(tmp_path.iterdir()) == [path]


def bad_records(folder: Path) -> dict[str, Path]:
    paths = {name: folder / f"{name}.npz" for name in ("text", "array", "keys", "pickle", "empty")}
    paths["missing"] = folder / "missing.npz"
    paths["text"].write_text("nothing")
    with paths["array"].open("wb") as file:
        np.save(file, np.zeros((3, 7)))
    np.savez(paths["keys"], samples=np.zeros((3, 7)))
    np.savez(paths["pickle"], samples=np.array([{}], dtype=object), meta=np.array("{}"))
    write_record(record_of(np.zeros((0, len(FIELDS)))), paths["empty"])
    paths["fields"] = folder / "fields.npz"
    strange = record_of(some_samples(3), fields=("a", "b"))
    write_record(LatencyRecord(np.zeros((3, 2)), strange.header), paths["fields"])
    return paths


@pytest.mark.parametrize("kind", ["text", "array", "keys", "pickle", "empty", "missing", "fields"])
def test_another_file_is_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    path = bad_records(tmp_path)[kind]
    with pytest.raises(InputError, match=r"expected a latency\.npz") as raised:
        read_record(path)
    assert str(path) in str(raised.value)
    assert "unsafe" not in str(raised.value)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("time", np.nan, "a time that is not finite"),
        ("time", np.inf, "a time that is not finite"),
        ("period", 1e300, "a time of no clock"),
        ("missed", 255.0, "missed that is neither 0 nor 1"),
        ("missed", np.nan, "missed that is neither 0 nor 1"),
    ],
)
def test_samples_that_no_step_can_have_are_refused(
    field: str, value: float, words: str, tmp_path: Path
) -> None:
    samples = some_samples(5)
    samples[2, FIELDS.index(field)] = value
    path = write_record(record_of(samples), tmp_path / "latency.npz")
    with pytest.raises(InputError, match=words):
        read_record(path)


def test_a_header_with_a_value_out_of_range_or_of_another_type_is_refused(tmp_path: Path) -> None:
    good = record_of(some_samples(3))
    fault = {"time": 0.0, "text": "x"}
    for change in (
        {"rate": -1.0},
        {"lost": -1},
        {"faults": [fault] * 1_001},
        {"phases": [fault] * 1_001},
        {"policy": 5},
    ):
        meta = np.array(json.dumps({**good.header.model_dump(), **change}))
        path = tmp_path / "latency.npz"
        np.savez(path, samples=good.samples, meta=meta)
        with pytest.raises(InputError, match=f"latency_monitor wrote, {next(iter(change))}: "):
            read_record(path)
    np.savez(path, samples=good.samples.astype("f4"), meta=np.array(good.header.model_dump_json()))
    with pytest.raises(InputError, match="of float64, got float32"):
        read_record(path)


def test_the_numbers_of_the_table_are_those_of_the_samples() -> None:
    samples = some_samples(2000)
    text = page(record_of(samples, lost=7))
    for name in ("age_by_stamp", "age_by_receipt", "inference", "end_to_end", "period"):
        values = 1e3 * samples[:, FIELDS.index(name)]
        numbers = [*np.percentile(values, (50, 90, 99, 99.9)), values.max()]
        cells = "".join(f"<td>{number:.3f}</td>" for number in numbers)
        assert f"<tr><td>{name}</td>{cells}</tr>" in text
    missed = samples[:, FIELDS.index("missed")] > 0
    assert f"{missed.sum()} of 2,000 ({missed.mean():.3%})" in text
    assert f"at most {longest_streak(missed)} in a row" in text
    assert "2,000 recorded, 7 lost in transport" in text
    assert text.count("<svg") == text.count("</svg>") == 6


def test_ten_minutes_at_1_khz_stay_small_and_need_nothing_else() -> None:
    samples = some_samples(600_000, 1000.0)
    faults = tuple(SeenFault(time=samples[i, 0], text="hold") for i in range(0, 600_000, 600))
    text = page(record_of(samples, faults=faults))
    assert len(text.encode()) < 300_000
    # what stays within the page: names of XML dialects, references from one part to another
    inside = r' xmlns(:xlink)?="http://www\.w3\.org/[\w/]+"|xlink:href="#\w+"|url\(#\w+\)'
    text = re.sub(inside, "", text)
    assert not re.search(r"https?:|//|\bsrc\b|\bhref\b|url\(|@import|<script|<link", text)
    assert f"And {len(faults) - MAX_FAULTS} more." in text


def test_text_from_outside_is_escaped() -> None:
    samples = some_samples(100)
    evil = "<script>alert('&')</script>"
    fault = SeenFault(time=samples[50, 0], text=evil)
    phases = tuple(SeenPhase(time=samples[0, 0], text=text) for text in (evil, "policy walk"))
    given = {"policy": evil, "robot": evil, "cpu": evil, "topic": evil}
    text = page(record_of(samples, faults=(fault,), phases=phases, **given))
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;") == 8


@pytest.mark.parametrize("count", [1, 2])
def test_a_page_of_one_or_two_samples(count: int) -> None:
    assert page(record_of(some_samples(count))).endswith("</html>\n")
    assert page(record_of(np.zeros((count, len(FIELDS))))).endswith("</html>\n")


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.02, 3.0])
@pytest.mark.parametrize("steps", [0, 1, 5, 10**6])
def test_a_distribution_of_nearly_equal_values_is_drawn(value: float, steps: int) -> None:
    other = value + steps * float(np.spacing(value))
    assert histogram(np.array([value, other, value]), "period").startswith("<svg")


def test_consoles_show_milliseconds() -> None:
    samples = some_samples(2000)
    inference = 1e3 * float(np.median(samples[:, FIELDS.index("inference")]))
    (line,) = [line for line in describe(record_of(samples)).splitlines() if "inference" in line]
    assert line.split()[1] == f"{inference:.3f}"


def test_the_time_line_shows_deadline_faults_and_missed_deadlines() -> None:
    samples = some_samples(1000)
    samples[:, FIELDS.index("missed")] = 0
    quiet = time_line(record_of(samples))
    assert "deadline: one period, 10 ms" in quiet
    assert "missed deadlines" not in quiet
    assert ">faults<" not in quiet
    samples[10, FIELDS.index("missed")] = 1
    faults = tuple(SeenFault(time=samples[i, 0], text="hold") for i in (100, 101, 700))
    text = time_line(record_of(samples, faults=faults))
    assert "missed deadlines" in text
    assert ">faults<" in text
    numbers = re.findall(r"<text[^>]*fill: #c0392b[^>]*> ?(\d)</text>", text)
    assert numbers == ["1", "3"]  # the second has no room, and stands in the table


def test_without_matplotlib_everything_but_the_page_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    *written, sentence = write_all(record_of(some_samples(100)), tmp_path)
    lists = {"observation_latency.json", "end_to_end_latency.json"}
    assert {Path(path).name for path in written} == {"latency.npz"} | lists
    assert {str(path) for path in tmp_path.iterdir()} == set(written)
    assert sentence.startswith("no page, as matplotlib cannot be imported here (")
    assert sentence.endswith(f"python -m ros_nodes.latency_page {tmp_path / 'latency.npz'}")


def test_the_page_is_made_again_from_the_file(tmp_path: Path) -> None:
    record = record_of(some_samples(100))
    good = write_record(record, tmp_path / "latency.npz")
    for path, code in ((good, 0), (tmp_path / "missing.npz", 2)):
        command = [sys.executable, "-m", "ros_nodes.latency_page", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert result.returncode == code, result.stderr
        assert len(result.stderr.splitlines()) == (1 if code else 0)
    assert (tmp_path / "latency.html").read_text() == page(record)


def test_a_page_does_not_replace_its_record(tmp_path: Path) -> None:
    path = write_record(record_of(some_samples(100)), tmp_path / "latency.npz")
    for name in ("record.html", "link.html"):
        misnamed = tmp_path / name
        misnamed.symlink_to(path) if name == "link.html" else path.rename(misnamed)
        path = misnamed
        before = path.read_bytes()
        with pytest.raises(InputError, match="its page would overwrite"):
            latency_page.main([str(path)])
        assert path.read_bytes() == before


# ---- layouts of other tools


def test_plotjuggler_layout_names_the_fields() -> None:
    root = ElementTree.parse(CONFIG / "plotjuggler_layout.xml").getroot()
    sources = {}
    for snippet in root.iter("snippet"):
        source = snippet.findtext("linked_source") or ""
        index = int(re.fullmatch(r"/policy_node/latency/data\[(\d)\]", source)[1])  # type: ignore[index]
        sources[snippet.get("name")] = FIELDS[index]
    assert {name and name.split()[0] for name in sources} == set(FIELDS) - {"time"}
    assert all(name and name.startswith(field) for name, field in sources.items())
    curves = {curve.get("name") or "" for curve in root.iter("curve")}
    others = curves - set(sources)
    assert set(sources) <= curves
    assert all(x.startswith(("/joint_states/", "/effort_controller/commands/")) for x in others)
    assert others


def test_foxglove_layout_shows_every_panel_it_holds() -> None:
    layout = json.loads((CONFIG / "foxglove_layout.json").read_text())

    def panels(part: Any) -> list[str]:
        if isinstance(part, str):
            return [part]
        assert part["direction"] in ("row", "column")
        assert 0 < part["splitPercentage"] < 100
        return panels(part["first"]) + panels(part["second"])

    assert sorted(panels(layout["layout"])) == sorted(layout["configById"])
    shown = {}
    for name, panel in layout["configById"].items():
        if name.startswith("Plot!"):
            shown |= {path["value"]: path["label"] for path in panel["paths"]}
    pattern = re.compile(r"/policy_node/latency\.data\[(\d)\]")
    fields = {
        FIELDS[int(match[1])]: label
        for value, label in shown.items()
        if (match := pattern.match(value))
    }
    assert set(fields) == set(FIELDS) - {"time"}
    assert all(label.startswith(field) for field, label in fields.items())
    assert any(value.startswith("/joint_states.position") for value in shown)


def test_diagnostic_aggregator_groups_both_entries() -> None:
    text = (CONFIG / "diagnostic_aggregator.yaml").read_text()
    given = yaml.safe_load(text)["analyzers"]["ros__parameters"]
    assert given["path"] == "dime_robot"
    analyzers = given["policy"]["analyzers"].values()
    taken = [name for one in analyzers for name in one.get("expected") or one["startswith"]]
    names = [
        diagnostics.entry_name("/policy_node", what)
        for what in (diagnostics.CONTROL, diagnostics.LATENCY)
    ]
    assert taken == names
    layout = json.loads((CONFIG / "foxglove_layout.json").read_text())
    assert layout["configById"]["DiagnosticStatusPanel!control"]["selectedName"] == names[0]
