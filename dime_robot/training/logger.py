"""What a run says: the screen and TensorBoard."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text
from torch.utils.tensorboard import SummaryWriter

from dime_robot.evaluation.rollout import Evaluation
from dime_robot.results.eval_csv import EvalRow

WIDE = 1e7  # from here on a return is shown with an exponent
PLAIN_INTERVAL = 15.0  # [s] between progress lines where there is no terminal to redraw


class PipeConsole(Console):
    """Where the reader of our output has gone, says so to `run_command`; rich would exit mutely."""

    def on_broken_pipe(self) -> None:
        """Called while the BrokenPipeError is handled."""
        raise BrokenPipeError


class RunLogger:
    """Screen and event file of one training run.

    On a terminal one line is redrawn in place; elsewhere plain lines appear now and then.
    """

    def __init__(
        self, folder: Path, total_steps: int, start_step: int, quiet: bool = False
    ) -> None:
        self.console = PipeConsole(highlight=False, soft_wrap=True, quiet=quiet)
        self._writer = SummaryWriter(str(folder), purge_step=start_step + 1)
        self._total = total_steps
        self._live: Live | None = None
        self._drawn = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque(maxlen=40)  # the recent speed, not the mean
        self._last_return: float | None = None
        self._best: float | None = None

    def start_progress(self) -> None:
        """Begin the progress line; everything printed from now on appears above it."""
        self._drawn = time.monotonic()
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()

    def line(self, text: str, style: str = "") -> None:
        """Print a line that stays."""
        self.console.print(Text(text, style=style))

    def episode(self, step: int, episode_return: float, length: int) -> None:
        """A training episode ended.

        Args:
            step: of the run.
            episode_return: unscaled [1].
            length: of the episode in steps.
        """
        self._last_return = episode_return
        self.scalars(step, {"train/return": episode_return, "train/episode_length": length})

    def progress(self, step: int) -> None:
        """Redraw the progress line; cheap enough for every step."""
        now = time.monotonic()
        if now - self._drawn < (0.25 if self._live else PLAIN_INTERVAL):
            return
        self._drawn = now
        self._marks.append((now, step))
        (then, at), speed = self._marks[0], 0.0
        if step > at:
            speed = (step - at) / (now - then)
        eta = _duration((self._total - step) / speed) if speed else "-"
        text = (
            f"step {step:>7,}/{self._total:,}  {speed:5.0f} steps/s  ETA {eta}"
            f"  last return {_number(self._last_return)}  best {_number(self._best)}"
        )
        if self._live:
            self._live.update(Text(text, style="cyan"))
        else:
            self.line(text)

    def evaluating(self, step: int, ended: int, episodes: int, steps: int) -> None:
        """An evaluation goes on; cheap enough for every step of it."""
        now = time.monotonic()
        if now - self._drawn < (0.25 if self._live else PLAIN_INTERVAL):
            return
        self._drawn = now
        text = f"evaluating step {step:,}: {ended} of {episodes} episodes ended, {steps:,} steps"
        if self._live:
            self._live.update(Text(text, style="cyan"))
        else:
            self.line(text)

    def evaluation(self, row: EvalRow, result: Evaluation) -> None:
        """One line that stays, and the event file."""
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

    def remember(self, rows: Sequence[EvalRow]) -> None:
        """Evaluations of an earlier part of this run."""
        self._best = max((row.return_mean for row in rows), default=None)

    def stop_progress(self) -> None:
        """Remove the progress line."""
        if self._live:
            self._live.stop()
            self._live = None

    def close(self) -> None:
        """Stop drawing and flush the event file."""
        self.stop_progress()
        self._writer.close()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) < WIDE else f"{value:.3g}"
