"""Checkpoint files: what is refused, what an earlier release wrote, and that nothing is lost."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dime_robot import evaluate, train
from dime_robot.learning.learner_state import LearnerState
from dime_robot.runtime.io.errors import InputError
from dime_robot.training import checkpoint
from dime_robot.training.checkpoint import Record
from tests.paths import RUN_OF_RELEASE_0_1

TRAILER_BYTES = 80


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in today's format: the old run, gone on with."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    options = ["--env", "Pendulum-v1", "--preset", "tiny", "--no-video", "--steps", "60"]
    sizes = ["--actor-width", "16", "--critic-width", "16", "--batch-size", "16"]
    options += ["--random-steps", "40", "--eval-interval", "60", *sizes]
    train.main([*options, "--out", str(folder)])
    return folder / "ckpt.pt"


def copy(source: Path, folder: Path) -> Path:
    path = folder / "ckpt.pt"
    path.write_bytes(source.read_bytes())
    return path


def content_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def seal(content: dict[str, Any], path: Path) -> None:
    """What an attacker can do too: any content, under a digest that fits."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    path.write_bytes(buffer.getvalue() + b"dime_robot sha256" + digest.encode())


def test_round_trip(written: Path, tmp_path: Path) -> None:
    first = checkpoint.load(written)
    path = tmp_path / "again.pt"
    checkpoint.save(path, first.record, first.learner)
    again = checkpoint.load(path)
    assert again.record == first.record
    assert again.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    for name, value in first.learner.critic.items():
        assert torch.equal(again.learner.critic[name], value)
    assert [file.name for file in tmp_path.iterdir()] == ["again.pt"]
    assert set(content_of(written)) == {"format", "version", "record", "tensors"}  # torch's own


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_anywhere_is_one_sentence(share: float, written: Path, tmp_path: Path) -> None:
    path = copy(written, tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"truncated|digest") as error:
        checkpoint.load(path)
    assert "\n" not in str(error.value)


def test_no_changed_byte_is_accepted(written: Path, tmp_path: Path) -> None:
    data, path = written.read_bytes(), tmp_path / "ckpt.pt"
    rng = np.random.default_rng(0)
    ends = [*range(200), *range(len(data) - 300, len(data))]
    for place in [*ends, *rng.integers(len(data), size=300).tolist()]:
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(InputError):
            checkpoint.load(path)


def test_a_forged_earlier_version_is_refused(written: Path, tmp_path: Path) -> None:
    path, content = tmp_path / "ckpt.pt", content_of(written)
    torch.save({**content, "version": 1}, path)
    with pytest.raises(InputError, match="entries of version 1"):
        checkpoint.load(path)
    seal({**content, "version": 1}, path)
    with pytest.raises(InputError, match="version 1 has no digest"):
        checkpoint.load(path)
    path.write_bytes(written.read_bytes()[:-TRAILER_BYTES])
    with pytest.raises(InputError, match="its digest is missing"):
        checkpoint.load(path)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(InputError, match="no such file"):
        checkpoint.load(path)
    with pytest.raises(InputError, match="a folder"):
        checkpoint.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="a regular file"):
        checkpoint.load(tmp_path / "pipe")
    path.write_text("hello")
    with pytest.raises(InputError, match="cannot be read"):
        checkpoint.load(path)
    torch.save({"model": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="another torch file"):
        checkpoint.load(path)
    for version in (99, "2", None, True, [1] * 1000, torch.zeros(2)):
        torch.save({"format": checkpoint.FORMAT, "version": version}, path)
        with pytest.raises(InputError, match="expected a checkpoint of version 1 or 2"):
            checkpoint.load(path)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch owned",)


def test_no_code_runs_from_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": checkpoint.FORMAT, "version": 1, "x": Evil()}, "evil.pt")
    with pytest.raises(InputError, match="cannot be read"):
        checkpoint.load(Path("evil.pt"))
    assert not Path("owned").exists()


def test_a_file_that_grows_when_unpacked_is_refused(written: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "ckpt.pt", io.BytesIO()
    with (
        zipfile.ZipFile(written) as source,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
        target.writestr("archive/data/999", bytes(10_000_000))
    path.write_bytes(out.getvalue())
    with pytest.raises(InputError, match="cannot be read"):
        checkpoint.load(path)


# -- every field is judged -----------------------------------------------------------------------


def changed_record(path: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    content = content_of(path)
    record = json.loads(content["record"])
    change(record)
    return {**content, "record": json.dumps(record)}


WRONG = [None, "x", "7", True, -1, 0.5, float("nan"), float("inf"), 2**70, [], {}, [[[]]]]


def accepted(name: str, value: object, was: object) -> bool:
    """What may stand there: the type it had, in its bounds."""
    if value is None:
        return name == "best_mean"
    if isinstance(value, bool) or (isinstance(value, float) and not np.isfinite(value)):
        return False
    if name in ("episode_return", "best_mean"):
        return isinstance(value, (int, float))
    if name in ("privileged", "restarts"):
        return value == []
    return (name in ("final", "provenance") and value == {}) or (
        name == "wall_seconds" and isinstance(value, (int, float)) and value >= 0
    )


@pytest.mark.parametrize("name", sorted(set(Record.model_fields) - {"post_mortem", "curriculum"}))
def test_every_field_missing_or_wrong_is_one_sentence(
    name: str, written: Path, tmp_path: Path
) -> None:
    path = tmp_path / "ckpt.pt"
    seal(changed_record(written, lambda record: record.pop(name)), path)
    if name in ("privileged", "restarts"):  # files of earlier releases do not have it
        checkpoint.load(path)
    else:
        with pytest.raises(InputError, match=name):
            checkpoint.load(path)
    was = json.loads(content_of(written)["record"])[name]
    for value in WRONG:
        seal(changed_record(written, lambda record, v=value: record.update({name: v})), path)  # type: ignore[misc]
        if accepted(name, value, was):
            checkpoint.load(path)
            continue
        with pytest.raises(InputError) as error:
            checkpoint.load(path)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 1000


def test_settings_must_be_there_and_counters_must_agree(written: Path, tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    seal(changed_record(written, lambda r: r["lineage"][0]["config"].pop("policy_delay")), path)
    with pytest.raises(InputError, match="policy_delay is missing"):
        checkpoint.load(path)
    for name, value in (("steps", 61), ("number", 61)):
        seal(
            changed_record(written, lambda r, n=name, v=value: r["episodes"][0].update({n: v})),
            path,
        )  # type: ignore[misc]
        with pytest.raises(InputError, match=f"episodes.{name}: expected at most"):
            checkpoint.load(path)
    seal(changed_record(written, lambda r: r["episodes"].append(r["episodes"][0])), path)
    with pytest.raises(InputError, match=r"one for each of 1 environments \(num_envs\), got 2"):
        checkpoint.load(path)
    seal(changed_record(written, lambda r: r.update(updates=10_000)), path)
    with pytest.raises(InputError, match="updates: expected at most"):
        checkpoint.load(path)
    seal(changed_record(written, lambda r: r["replay"].update(digests=[])), path)
    with pytest.raises(InputError, match="a digest for every chunk"):
        checkpoint.load(path)


def test_a_file_from_before_several_environments_is_read(written: Path, tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"

    def as_before(record: dict[str, Any]) -> None:
        (episode,) = record.pop("episodes")
        names = {"episode": "number", "episode_step": "steps", "episode_return": "total"}
        record.update({old: episode[new] for old, new in names.items()})
        for name in ("num_envs", "n_step"):
            record["lineage"][0]["config"].pop(name)

    seal(changed_record(written, as_before), path)
    assert checkpoint.load(path).record == checkpoint.load(written).record


def test_foreign_tensors_are_refused_before_they_are_used(written: Path, tmp_path: Path) -> None:
    path, folder = tmp_path / "ckpt.pt", tmp_path
    (folder / "replay.bin").write_bytes(written.with_name("replay.bin").read_bytes())

    def weight(value: torch.Tensor) -> Callable[[dict[str, Any]], None]:
        return lambda tensors: tensors["actor"].update({"output.bias": value})

    def moment(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
        return lambda tensors: tensors["optimizers"]["critic"][0].update({key: value})

    cases: list[tuple[Callable[[dict[str, Any]], None], str]] = [
        (weight(torch.zeros(1).expand(10**9)), "expected \\(1,\\)"),
        (weight(torch.zeros(1, dtype=torch.float64)), "float64"),
        (weight(torch.full((1,), torch.nan)), "NaN"),
        (lambda t: t["actor"].update(extra=torch.zeros(1)), "extra"),
        (lambda t: t["actor"].pop("output.bias"), "output.bias"),
        (lambda t: t["critic"].update({"norms.0.running_var": -t["critic"]["norms.0.running_var"]}),
         "no negative"),
        (lambda t: t["optimizers"].pop("actor"), "optimizers"),
        (lambda t: t["optimizers"]["critic"].pop(0), "moments of"),
        (moment("exp_avg", torch.zeros(3)), "exp_avg"),
        (moment("exp_avg_sq", "x"), "named tensors"),
        (moment("step", torch.tensor(torch.nan)), "NaN"),
        (lambda t: t.update(generator=torch.zeros(5, dtype=torch.uint8)), "another kind of device"),
        (lambda t: t.update(log_alpha=torch.tensor(torch.inf)), "NaN or infinity"),
        (lambda t: t.update(actor=[1]), "named tensors"),
        (lambda t: t.pop("critic"), "tensors"),
    ]  # fmt: skip
    for change, words in cases:
        content = content_of(written)
        change(content["tensors"])
        seal(content, path)
        with pytest.raises(InputError, match=words) as error:
            train.main(["--resume", str(folder), "--steps", "70", "--no-video"])
        assert str(path) in str(error.value)


def test_a_policy_of_nan_is_not_evaluated(written: Path, tmp_path: Path) -> None:
    path, content = tmp_path / "ckpt.pt", content_of(written)
    content["tensors"]["actor"]["trunk.0.weight"][0, 0] = torch.nan
    seal(content, path)
    with pytest.raises(InputError, match=r"trunk\.0\.weight holds NaN"):
        evaluate.main([str(path), "--episodes", "1"])


# -- saving --------------------------------------------------------------------------------------


def test_a_failed_write_keeps_what_was_there(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, state = copy(written, tmp_path), checkpoint.load(written)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        checkpoint.save(path, state.record.model_copy(update={"episode": 0}), state.learner)
    monkeypatch.undo()
    assert path.read_bytes() == written.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["ckpt.pt"]


def test_what_cannot_be_read_back_is_not_written(written: Path, tmp_path: Path) -> None:
    path, state = copy(written, tmp_path), checkpoint.load(written)
    numpy_inside = {**state.learner.actor, "output.bias": np.float32(1)}
    broken = LearnerState(**{**vars(state.learner), "actor": numpy_inside})
    with pytest.raises(InputError):
        checkpoint.save(path, state.record, broken)
    assert path.read_bytes() == written.read_bytes()


# -- the release before --------------------------------------------------------------------------


def test_a_checkpoint_of_the_release_before_has_the_same_weights(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("ckpt.pt", "best.pt"):
        old = content_of(RUN_OF_RELEASE_0_1 / name)
        actor, loaded = checkpoint.load_actor(RUN_OF_RELEASE_0_1 / name)
        for key, value in old["actor"].items():
            assert torch.equal(actor.state_dict()[key], value)
        assert loaded.record.step == old["step"]
        assert loaded.record.replay.version == 1
    assert capsys.readouterr().err.count("its bytes carry no digest") <= 2


def test_a_run_of_the_release_before_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for source in RUN_OF_RELEASE_0_1.iterdir():
        (folder / source.name).write_bytes(source.read_bytes())
    assert train.main(["--resume", str(folder), "--no-video"]) == 0
    assert capsys.readouterr().err.count("no digest") == 1
    record = checkpoint.load(folder / "ckpt.pt").record
    assert (record.step, record.replay.version, record.replay.file) == (130, 2, "replay-2.bin")
    assert record.lineage[0].begins == "unknown"
    assert not (folder / "replay.bin").exists()
    assert "did not record --init" in (folder / "report.html").read_text()
    assert train.main(["--resume", str(folder), "--steps", "140", "--no-video"]) == 0


def test_odd_entries_in_an_old_checkpoint_are_one_sentence(tmp_path: Path) -> None:
    path, old = tmp_path / "ckpt.pt", content_of(RUN_OF_RELEASE_0_1 / "ckpt.pt")
    deep: Any = 1
    for _ in range(50):
        deep = [deep]
    values = [None, "x", True, -1, float("nan"), [], {}, deep, torch.zeros(3), b"x"]
    for name in sorted(old.keys() - {"format", "version"}):
        for value in values:
            torch.save({**old, name: value}, path)
            with contextlib.suppress(InputError):  # any other error is a failure
                checkpoint.load(path)
        torch.save({k: v for k, v in old.items() if k != name}, path)
        if name not in ("env_since", "best_mean"):
            with pytest.raises(InputError):
                checkpoint.load(path)
