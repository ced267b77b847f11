"""RunFolder: the files of a training run, with each name defined once."""

from __future__ import annotations

from pathlib import Path

from dime_robot.learning.config import TrainConfig
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.regular_files import draft_of


def folder_name(env: str) -> str:
    """Return an environment's name as a part of a file name."""
    return env.replace(":", "-").replace("/", "-")


class RunFolder:
    """Paths of the files of one run; making this object changes no file.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "ckpt.pt"  # the last good one
        self.best = path / "best.pt"  # of the highest mean return in its environment
        self.post_mortem = path / "nan.pt"  # the state in which a NaN stopped the run
        self.replay = path / "replay.bin"
        self.config = path / "config.yaml"
        self.evaluations = path / "eval.csv"
        self.events = path  # TensorBoard chooses the names of its event files
        self.report = path / "report.html"
        self.video = path / "video.mp4"
        self.policy = path / "policy.onnx"  # default output of an export
        self.lock = path / ".lock"  # while a process trains here

    @classmethod
    def to_resume(cls, path: Path) -> RunFolder:
        """Return the run that `--resume` names, by its folder or its checkpoint.

        Raises:
            InputError: another file, from which no run can continue.
        """
        beside = cls(path.parent)
        if path == beside.checkpoint:
            return beside
        if path.suffix == beside.checkpoint.suffix and not path.is_dir():
            raise InputError(
                f"--resume {path}: a run goes on from its {beside.checkpoint.name}: --resume"
                f" {path.parent}; to start a new one from this file use --init {path}"
            )
        return cls(path)

    @classmethod
    def for_new_run(cls, out: Path | None, config: TrainConfig) -> RunFolder:
        """Return the folder `out`, or an unused name under runs/.

        Raises:
            InputError: `out` is not empty.
        """
        if out is not None:
            folder = cls(out)
            if out.exists() and (not out.is_dir() or any(p != folder.lock for p in out.iterdir())):
                raise InputError(
                    f"--out {out}: expected a new or empty folder; to go on with the run in it use"
                    f" --resume {out}"
                )
            return folder
        name = f"{folder_name(config.env)}-{config.preset}-seed{config.seed}"
        path, number = Path("runs") / name, 1
        while path.exists():
            number += 1
            path = Path("runs") / f"{name}-{number}"
        return cls(path)

    def best_policy(self) -> Path:
        """Return the best checkpoint, or else the last one.

        Raises:
            InputError: neither exists.
        """
        for path in (self.best, self.checkpoint):
            if path.exists():
                return path
        raise InputError(
            f"{self.path}: expected a run folder with {self.best.name} or {self.checkpoint.name},"
            " got neither"
        )

    def unfinished_start(self) -> list[Path]:
        """Return all files of a run that was killed before its first checkpoint; else none."""
        early = {self.config, draft_of(self.config), self.replay, draft_of(self.checkpoint)}
        found = [path for path in self.path.glob("*") if path != self.lock]
        return found if early.issuperset(found) else []
