"""The log of a run: lines on the screen and scalars for TensorBoard."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping, Sequence
from time import monotonic

from torch.utils.tensorboard import SummaryWriter

from dime_robot.evaluation.rollout import Evaluation
from dime_robot.progress import ProgressLine
from dime_robot.results.eval_csv import EvalRow
from dime_robot.training.run_folder import RunFolder

WIDE = 1e7  # larger returns are shown with an exponent


class RunLogger:
    """Screen and event file of one training run.

    Args:
        files: of the run.
        total_steps: steps at which it ends.
        start_step: step from which it continues.
        quiet: print nothing.
    """

    def __init__(
        self, files: RunFolder, total_steps: int, start_step: int, quiet: bool = False
    ) -> None:
        self._screen = ProgressLine(sys.stdout, quiet)
        self._writer = SummaryWriter(str(files.events), purge_step=start_step + 1)
        self._total = total_steps
        self._marks: deque[tuple[float, int]] = deque(maxlen=40)  # for the speed over recent steps
        self._last_return: float | None = None
        self._best: float | None = None

    def resume(self, earlier: Sequence[EvalRow]) -> None:
        """Take over the evaluations of a run before it was resumed."""
        self._best = max((row.return_mean for row in earlier), default=None)

    def line(self, text: str) -> None:
        """Print a permanent line."""
        self._screen.line(text)

    def episode(self, step: int, episode_return: float, length: int) -> None:
        """Log an ended training episode.

        Args:
            step: of the run.
            episode_return: unscaled [1].
            length: of the episode in steps.
        """
        self._last_return = episode_return
        self.scalars(step, {"train/return": episode_return, "train/episode_length": length})

    def progress(self, step: int) -> None:
        """Show the progress of the run; cheap enough for every step."""
        if not self._screen.due():
            return
        self._marks.append((monotonic(), step))
        (first, at), (last, _) = self._marks[0], self._marks[-1]
        speed = (step - at) / (last - first) if step > at else 0.0
        eta = _duration((self._total - step) / speed) if speed else "-"
        self._screen.draw(
            f"step {step:>7,}/{self._total:,}  {speed:5.0f} steps/s  ETA {eta}"
            f"  last return {_number(self._last_return)}  best {_number(self._best)}"
        )

    def evaluating(self, step: int, ended: int, episodes: int, steps: int) -> None:
        """Show the progress of an evaluation; cheap enough for every step of it."""
        if self._screen.due():
            self._screen.draw(
                f"evaluating step {step:,}: {ended} of {episodes} episodes ended, {steps:,} steps"
            )

    def evaluation(self, row: EvalRow, result: Evaluation) -> None:
        """Log an evaluation: a permanent line, and scalars."""
        self._best = row.return_mean if self._best is None else max(self._best, row.return_mean)
        scalars = {"eval/return_mean": row.return_mean, "eval/return_std": row.return_std}
        text = (
            f"eval {row.step:>7,}  return {_number(row.return_mean):>8} ±"
            f" {_number(row.return_std):<6}"
            f" ({row.episodes} episodes"
        )
        if result.successes is not None:
            text += f", success {result.successes}/{row.episodes}"
        if result.success_rate is not None:
            scalars["eval/success_rate"] = result.success_rate
        self.line(f"{text})  {_duration(row.wall_seconds)}")
        self.scalars(row.step, scalars)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write to the event file."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Remove the progress line and flush the event file."""
        self._screen.clear()
        self._writer.close()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) < WIDE else f"{value:.3g}"
