"""TrainingRun: environment steps, updates, evaluations and checkpoints of one run folder.

A run can be killed at any time and resumed bit for bit on the same CPU. This is possible because
every episode starts from a seed derived from (run seed, episode number); the actions since the last
reset are in the replay data, so a resumed run replays them to bring each simulator back to the same
state; all other random numbers come from the agent's generator.

With several environments a step of the loop is one control step of each, and a run's steps are
those of all environments together. What is due at a step is then due at the first one that all
environments have made.

With `--ray` the environments are in processes of a cluster that step by themselves and send whole
messages of transitions; the loop takes one message at a time, and such a run does not repeat itself
bit for bit.
"""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
import yaml

from dime_robot.envs import MAX_EPISODE_STEPS, EnvLike
from dime_robot.evaluation.rollout import (
    Evaluation,
    Evaluator,
    NoEnvironmentError,
    require_finite_actions,
)
from dime_robot.learning.config import TrainConfig
from dime_robot.learning.cuda_graphs import set_up
from dime_robot.learning.dime import DIME
from dime_robot.learning.memory import require_memory
from dime_robot.learning.metrics import metrics
from dime_robot.learning.replay_buffer import ReplayBuffer
from dime_robot.learning.symmetry import BatchMirror
from dime_robot.results.eval_csv import EvalRow, read_eval_csv, write_eval_csv
from dime_robot.runtime.contract.interpolation import record_of
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.regular_files import RUN_AGAIN, write_atomically
from dime_robot.runtime.policy.noise import NOISE_LEGEND, NOISE_MODES, NoiseMode
from dime_robot.training import checkpoint
from dime_robot.training.checkpoint import Checkpoint, FinalEvaluation, PostMortem, Record
from dime_robot.training.curriculum import Curriculum
from dime_robot.training.env_facts import facts_of
from dime_robot.training.env_maker import TRAIN, EnvMaker
from dime_robot.training.lineage import Lineage, Origin, Stage
from dime_robot.training.logger import RunLogger
from dime_robot.training.mirror import mirror_of
from dime_robot.training.privileged import privileged_terms, require_same, total
from dime_robot.training.provenance import TASK, provenance
from dime_robot.training.rollouts import (
    AllWorkersLostError,
    LocalRollouts,
    NotFiniteActionError,
    RolloutMaker,
    Rollouts,
)
from dime_robot.training.run_folder import RunFolder
from dime_robot.training.run_lock import RunLock
from dime_robot.training.vector_env import NotFiniteError
from dime_robot.training.workers import WorkerLostError

_EVAL = TRAIN + 1  # key of evaluation episodes among the seeds derived from the run's
CLIPPED_MASS_WARNING = 0.05
WIDE_ATOMS = 4.0  # times the range of returns that the observed rewards allow
MAX_PARALLEL = 100  # environments that evaluations keep
FLOAT32_MAX = float(np.finfo(np.float32).max)
# NaN entries of the actor's gradient are set to 0, as in the authors' code: acceptable for a rare
# numerical error. From one update in ten on, the policy would learn from incomplete gradients.
NAN_GRADIENT_SHARE = 0.1  # of actor updates
NAN_GRADIENT_WINDOW = 20  # minimum of actor updates that a share is taken over


class NonFiniteError(InputError):
    """A NaN or infinity with which a run cannot continue."""


@dataclass(frozen=True)
class EvaluationEvent:
    """An evaluation during training, for callbacks.

    Attributes:
        step: environment steps so far.
        evaluation: returns and statistics; `evaluation.summary()` gives plain numbers to log.
        folder: of the run.
    """

    step: int
    evaluation: Evaluation
    folder: Path


class StopRequestedError(Exception):
    """Ends an evaluation on a stop request; the run then saves and ends."""


class TrainingRun:
    """One run and its folder.

    Args:
        config: all settings.
        folder: of its files.
        device: of the agent.
        origin: the checkpoint whose networks it begins from, if any.
        lock: on the folder, released when the run is closed.
        env: the environment, if it cannot be made from its name in `config`.
        rollouts: makes what gives the transitions of a run with `ray`; none: they are made here.

    Raises:
        InputError: settings or an environment that cannot be used.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        device: torch.device,
        origin: Origin | None = None,
        lock: RunLock | None = None,
        env: EnvLike | None = None,
        rollouts: RolloutMaker | None = None,
    ) -> None:
        set_up(device, config.threads)
        self.config, self.folder, self._lock = config, folder, lock
        self.files = RunFolder(folder)
        self._source: EnvLike = config.env if env is None else env
        maker = EnvMaker.of(self._source, config.seed, config.asymmetric_critic)
        if config.ray != (rollouts is not None):
            raise InputError(
                "ray: expected --ray on the command line, or train_policy(ray=True, rollouts=...),"
                f" got the setting ray {config.ray} alone"
            )
        self.rollouts: Rollouts
        if rollouts is None:
            self.rollouts = LocalRollouts(config, maker)
        else:
            self.rollouts = rollouts(config, maker, self._note)
        try:
            self._prepare(device, origin)
        except BaseException:
            self.rollouts.close()
            raise

    def _prepare(self, device: torch.device, origin: Origin | None) -> None:
        """Make all that stands on the environments, and begin their first episodes."""
        config = self.config
        self._facts = self.rollouts.query(functools.partial(facts_of, name=config.env))
        self.spec = self._facts.spec
        # what only the critics see, at the end of every observation of training
        self.privileged = self.rollouts.query(privileged_terms) if config.asymmetric_critic else ()
        more = total(self.privileged)
        require_memory(config, self.spec.n_obs, self.spec.n_act, device, more)
        mirror = None
        if config.symmetry:
            found = self.rollouts.query(functools.partial(mirror_of, name=config.env))
            mirror = BatchMirror(
                found.observation_index,
                found.observation_sign,
                found.action_index,
                found.action_sign,
                device,
            )
        self.agent = DIME(self.spec, config, device, more, mirror)
        self.buffer = ReplayBuffer(
            config.buffer_size,
            self.spec.n_obs + more,
            self.spec.n_act,
            device,
            margin=config.checkpoint_interval + self.rollouts.most_rows - 1,
            num_envs=self.rollouts.stride,
            at_once=self.rollouts.rows,
            run=secrets.token_hex(16),
            file=self.files.replay.name,
        )
        noise_shape = (self.agent.actor.steps + 1, self.spec.n_act)
        self.evaluator = Evaluator(
            self._source,
            noise_shape,
            parallel=min(config.final_episodes, MAX_PARALLEL),
            seed=config.seed,
            log=self._note,
        )
        self._one_environment = False  # the simulator allows only one instance at a time
        self._gradients_seen = (0, 0)  # actor updates, and those with NaN, at the last check
        self.rows: list[EvalRow] = []
        self.final: dict[NoiseMode, FinalEvaluation] = {}  # of the last evaluation
        self.provenance = {**provenance(), **self.rollouts.provenance}
        if self._facts.task_digest is not None:
            self.provenance[TASK] = self._facts.task_digest
        if self._facts.interpolation is not None:
            self.provenance |= record_of(self._facts.interpolation)
        self.step = 0
        self._lineage: Lineage = (Stage(begins="new", since=0, until=0, config=config),)
        if origin is not None:
            own = self._lineage[0].model_copy(update={"begins": "init", "init": origin.digest})
            self._lineage = (*origin.lineage, own)
        self.best_mean = -np.inf  # mean return of the best evaluation since then
        self.on_evaluation: Callable[[EvaluationEvent], bool | None] | None = None
        self.stop_requested = False
        self.stepping = True  # until the loop ends, which polls `stop_requested`
        self.busy = False  # within a save or updates, which a stop request does not interrupt
        self._saved_step = 0
        self._earlier_seconds = 0.0
        self._began = time.monotonic()
        self._clipped_mass_warned = self._atoms_checked = False
        self._logger: RunLogger | None = None
        levels = self._facts.levels if config.curriculum else ()
        self.curriculum = Curriculum(levels, config.num_envs) if levels else None
        self._take_level()
        with self._stops_for_environments():
            self.rollouts.reset()

    def _take_level(self) -> None:
        """Begin new episodes in the current level of the curriculum."""
        curriculum = self.curriculum
        if curriculum is not None:
            self.rollouts.level = None if curriculum.level is None else curriculum.number
            self.agent.scale_learning_rates(curriculum.learning_rate)

    # -- files -----------------------------------------------------------------------------------

    @property
    def wall_seconds(self) -> float:
        """Time spent on this run, over all its sessions [s]."""
        return self._earlier_seconds + time.monotonic() - self._began

    @property
    def finished(self) -> bool:
        """Whether the final evaluation at this number of steps was made."""
        return bool(self.final) and self.step >= self.config.steps

    def create_folder(self) -> None:
        """Make the folder and write the settings and a first checkpoint."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_config()
        self.save()

    def write_config(self) -> None:
        """Write `config.yaml`: every setting of the run."""
        text = yaml.safe_dump(self.config.model_dump(), sort_keys=False)
        write_atomically(self.files.config, text.encode(), RUN_AGAIN)

    @property
    def env_since(self) -> int:
        """Step at which a resumed run changed to this environment; 0: it never did."""
        return self._lineage[-1].since

    def record(self, post_mortem: PostMortem | None = None) -> Record:
        """Return the part of a checkpoint without the learner's tensors."""
        *before, own = self._lineage
        own = own.model_copy(update={"until": self.step, "config": self.config})
        return Record(
            lineage=(*before, own),
            spec=self.spec,
            step=self.step,
            episodes=self.rollouts.open_episodes(),
            restarts=self.rollouts.restarts(),
            updates=self.agent.updates,
            best_mean=None if self.best_mean == -np.inf else self.best_mean,
            replay=self.buffer.record(),
            curriculum=None if self.curriculum is None else self.curriculum.state(),
            privileged=self.privileged,
            wall_seconds=self.wall_seconds,
            final=self.final,
            provenance=self.provenance,
            post_mortem=post_mortem,
        )

    def save(self) -> None:
        """Write replay rows, then the checkpoint that refers to them."""
        self.check_finite()
        try:
            self.buffer.flush(self.folder)
        except OSError as error:
            raise InputError(
                f"{self.folder}: its replay data cannot be written ({error.strerror});"
                f" {self.files.checkpoint} is the last good checkpoint, make room and go on with"
                f" --resume {self.folder}"
            ) from None
        checkpoint.save(self.files.checkpoint, self.record(), self.agent.state_dict())
        self._saved_step = self.step

    def load(self, state: Checkpoint, log: Callable[[str], None] = print) -> None:
        """Continue from a checkpoint.

        Raises:
            InputError: a part of it does not fit the settings, or the replay data do not fit it.
        """
        record = state.record
        if record.replay.added != record.step:
            raise InputError(
                f"{state.path}: expected a checkpoint that goes with its replay data (ckpt.pt):"
                f" step {record.step}, {record.replay.added} transitions"
            )
        require_same(record.privileged, self.privileged, f"--resume {self.folder}")
        try:
            self.agent.load_state_dict(state.learner)
        except InputError as error:
            raise InputError(f"{state.path}: {error}") from None
        self.buffer.load(self.folder, record.replay)
        self.step = record.step
        self._lineage = record.lineage
        task = self.provenance.get(TASK)
        same = task is not None and task == record.provenance.get(TASK)  # a file that was moved
        moved = record.config.env != self.config.env and not same
        if moved:
            stage = Stage(begins="moved", since=self.step, until=self.step, config=self.config)
            self._lineage, self.best_mean = (*record.lineage, stage), -np.inf
        else:
            self.best_mean = -np.inf if record.best_mean is None else record.best_mean
        self._saved_step, self._earlier_seconds = self.step, record.wall_seconds
        self.final = dict(record.final) if self.step >= self.config.steps else {}
        path = self.files.evaluations
        rows = read_eval_csv(path) if path.exists() else []
        self.rows = [row for row in rows if row.step <= self.step]
        if self.curriculum is None:
            if record.curriculum is not None and not moved and self.config.curriculum:
                raise InputError(
                    f"curriculum: expected the levels with which the run began, got none in"
                    f" {self.config.env}: put them back, or go on with --no-curriculum in a new run"
                    " (--init)"
                )
        elif record.curriculum is not None and not moved:
            self.curriculum.load(record.curriculum)
        else:  # it begins here
            self.curriculum.begin(self.step)
        self._take_level()
        self._restore_episodes(record, moved, log)
        if record.replay.version == 1:  # digests are added from now on
            self.save()
            (self.folder / record.replay.file).unlink(missing_ok=True)

    def _restore_episodes(self, record: Record, moved: bool, log: Callable[[str], None]) -> None:
        """Bring the simulators back to their state at the checkpoint."""
        episodes = record.episodes
        known = 0 if self.curriculum is None else self.curriculum.count
        changed = {"level": self.rollouts.level}  # those of the environment or the file before
        episodes = tuple(
            each.model_copy(update=changed) if moved or (each.level or 0) > known else each
            for each in episodes
        )
        with self._stops_for_environments():
            dropped = self.rollouts.restore(episodes, record.restarts, self.buffer.newest_of)
        if not dropped:
            return
        what = "the interrupted episode is dropped"
        if (count := self.config.num_envs) > 1:
            what = f"the interrupted episodes of {len(dropped)} of {count} environments are dropped"
        log(f"{self.config.env} does not repeat itself: {what}")

    # -- the loop --------------------------------------------------------------------------------

    def train(self, logger: RunLogger) -> None:
        """Run until the last step or until `stop_requested`, and save a checkpoint."""
        self._began = time.monotonic()
        self._logger = logger
        self._warn_of_endless_episodes(logger)
        self._warn_of_no_updates(logger)
        logger.resume(self.rows)
        try:
            self._loop(logger)
        except StopRequestedError:  # the resumed run repeats the evaluation
            pass
        finally:
            self.stepping = False
        if self.stop_requested:
            logger.line(f"stopping at step {self.step:,}: saving")
        if self.step != self._saved_step or not self.finished:
            self.save()

    def _loop(self, logger: RunLogger) -> None:
        self._evaluate_if_due(logger)
        if self.config.ray:  # the rest of a message's updates, if the run was stopped among them
            self._learn_in_pieces(logger)
        while self.step < self.config.steps and not self.stop_requested:
            before = self.step
            self._environment_step(logger)
            if self.step == before:  # workers of a cluster have nothing yet
                continue
            if self._due(self.config.log_interval):
                self._log(logger)
            self._evaluate_if_due(logger)
            if self.step - self._saved_step >= self.config.checkpoint_interval:
                self._save_between_steps()
            logger.progress(self.step)
        if not self.stop_requested and not self.finished:
            self._save_between_steps()
            self._evaluate_finally(logger)
            self._save_between_steps()

    def _save_between_steps(self) -> None:
        with self._ends_by_itself():
            self.save()

    @contextmanager
    def _ends_by_itself(self) -> Iterator[None]:
        """A stop request waits for what is done in here, however long it takes."""
        self.busy = True
        try:
            yield
        finally:
            self.busy = False

    def _warn_of_endless_episodes(self, logger: RunLogger) -> None:
        if self._facts.time_limit is None:
            logger.line(
                f"warning: {self.config.env} states no time limit (max_episode_steps): episodes of"
                f" evaluations are cut at {MAX_EPISODE_STEPS:,} steps and count as truncated"
            )

    def _warn_of_no_updates(self, logger: RunLogger) -> None:
        steps, random = self.config.steps, self.config.random_steps
        if steps > random and self.config.updates_at(steps + self.rollouts.rows) == 0:
            logger.line(
                f"warning: no update happens and the policy stays untrained: --update-to-data"
                f" {self.config.update_to_data:g} gives none within {steps:,} steps"
            )
        if steps <= random:
            logger.line(
                f"warning: no update happens and the policy stays untrained: --steps {steps:,} ends"
                f" within --random-steps {random:,}; give more steps or fewer random ones"
            )

    def _due(self, interval: int) -> bool:
        """Whether what happens every `interval` steps is due now."""
        return self.step % interval < self.rollouts.rows

    def _environment_step(self, logger: RunLogger) -> None:
        """Make one control step in every environment, and the updates that are due.

        Workers of a cluster have made such steps before: the run takes a message of theirs, if one
        is there.
        """
        config, rollouts = self.config, self.rollouts
        after = self.step + rollouts.rows
        updates = config.updates_at(after) - config.updates_at(self.step)

        def meanwhile() -> None:
            if config.overlap and len(self.buffer):
                self.agent.learn(self.buffer, updates)  # on a GPU this only starts the computation

        with self._stops_for_environments():
            new = rollouts.collect(self.agent, self.step, meanwhile)
        if new is None:
            return
        scaled = new.rewards * config.reward_scale
        if (np.abs(scaled) > FLOAT32_MAX).any():
            largest = new.rewards[int(np.abs(scaled).argmax())]
            self._stop_for(
                f"{config.env} gave a reward of {largest:g} at step {self.step}: times"
                f" --reward-scale {config.reward_scale:g} it is beyond float32"
            )
        self.buffer.add(new.obs, new.actions, new.next_obs, scaled, new.terminations)
        self.step = after
        if config.ray:
            self._learn_in_pieces(logger)
        elif not config.overlap:
            with self._ends_by_itself():
                self.agent.learn(self.buffer, updates)
        for episode in new.ended:
            logger.episode(self.step, episode.total, episode.steps)
        if self.curriculum is not None and (
            changed := self.curriculum.advance(new.ended, self.step)
        ):
            self._take_level()
            logger.line(f"step  {self.step:>6,}  {changed}")

    def _learn_in_pieces(self, logger: RunLogger) -> None:
        """Make all updates that are due, some at a time; a stop leaves the rest to the resumed run.

        A message brings hundreds: a piece has as many as one step of a worker's environments gives,
        so that their samples need no more memory, and a stop no more patience, than here.
        """
        piece = max(1, int(self.config.update_to_data * self.rollouts.stride))
        while not self.stop_requested:
            owed = self.config.updates_at(self.step) - self.agent.updates
            if owed <= 0:
                return
            with self._ends_by_itself():
                self.agent.learn(self.buffer, min(owed, piece))
            logger.progress(self.step)

    def _log(self, logger: RunLogger) -> None:
        self.check_finite()
        values = metrics(self.agent)
        if "actor/loss" not in values:  # the actor's updates have not begun
            return
        if self.curriculum is not None:
            values["curriculum/level"] = self.curriculum.number
            values["curriculum/passed_share"] = self.curriculum.passed_share
        values |= self.rollouts.figures()
        values["time/steps_per_second"] = self.step / max(self.wall_seconds, 1e-9)
        logger.scalars(self.step, values)
        if not self._atoms_checked and self.step >= self.config.steps / 4:
            self._atoms_checked = True
            self._warn_of_wide_atoms(logger)
        clipped = values["critic/clipped_mass"]
        if clipped > CLIPPED_MASS_WARNING and not self._clipped_mass_warned:
            self._clipped_mass_warned = True
            logger.line(
                f"warning: {clipped:.0%} of the target's mass is clipped at the atoms' ends"
                f" [{self.config.v_min:g}, {self.config.v_max:g}]; widen --v-min/--v-max or lower"
                " --reward-scale"
            )

    def _warn_of_wide_atoms(self, logger: RunLogger) -> None:
        """Warn where atoms are far wider than any return: the critic cannot resolve returns."""
        config, rewards = self.config, self.buffer.rewards()
        low, high = min(0.0, float(rewards.min())), max(0.0, float(rewards.max()))
        returns = (high - low) / (1 - config.discount)
        if config.v_max - config.v_min > WIDE_ATOMS * returns:
            logger.line(
                f"warning: the atoms [{config.v_min:g}, {config.v_max:g}] are more than"
                f" {WIDE_ATOMS:g} times wider than the returns that rewards in [{low:.3g},"
                f" {high:.3g}] can add up to, [{low / (1 - config.discount):.4g},"
                f" {high / (1 - config.discount):.4g}]; set --v-min and --v-max near them"
            )

    # -- evaluation ------------------------------------------------------------------------------

    def _evaluate(self, episodes: int, mode: NoiseMode) -> Evaluation:
        seed = (self.config.seed, _EVAL, self.step)
        name = f"the policy of step {self.step:,}"
        policy = require_finite_actions(self.agent.actor.act_numpy, name)

        def run() -> Evaluation:
            return self.evaluator.run(policy, episodes, seed, mode, self._watch)

        if not self._one_environment:
            try:
                return run()
            except NoEnvironmentError as error:
                if self.config.ray:  # here is no training episode that it could replace
                    raise
                self._one_environment = True
                self._note(
                    f"only one {self.config.env} can exist at a time ({error}): evaluations use it"
                    " in place of the training episode, which then ends early"
                )
        self.rollouts.close()
        try:
            return run()
        finally:
            self.evaluator.close()
            with self._stops_for_environments():
                self.rollouts.reopen()

    def _watch(self, ended: int, episodes: int, steps: int) -> None:
        """Between two steps of an evaluation, end it on a stop request, or show its progress."""
        if self.stop_requested:
            raise StopRequestedError
        if self._logger is not None:
            self._logger.evaluating(self.step, ended, episodes, steps)

    def _evaluate_if_due(self, logger: RunLogger) -> None:
        due = self._due(self.config.eval_interval) and self.step < self.config.steps
        if due and not any(row.step == self.step for row in self.rows):
            self.check_finite()
            result = self._evaluate(self.config.eval_episodes, "fresh")
            self._add_row(result, logger)
            self._keep_if_best(result)

    def _evaluate_finally(self, logger: RunLogger) -> None:
        """Evaluate for the last row of `eval.csv`, and in all noise modes for the report."""
        results = {mode: self._evaluate(self.config.final_episodes, mode) for mode in NOISE_MODES}
        self._add_row(results["fresh"], logger)
        self._keep_if_best(results["fresh"])
        self.final = {
            mode: FinalEvaluation.model_validate(result.summary())
            for mode, result in results.items()
        }
        for mode, result in results.items():
            logger.line(f"final, {mode:5s} noise  {result}")
        for text in NOISE_LEGEND:
            logger.line(f"  {text}")

    def _note(self, text: str) -> None:
        if self._logger is not None:
            self._logger.line(f"note: {text}")

    def _keep_if_best(self, result: Evaluation) -> None:
        if self.step > self.env_since and result.mean > self.best_mean:
            self.best_mean = result.mean
            checkpoint.save(self.files.best, self.record(), self.agent.state_dict())

    def _add_row(self, result: Evaluation, logger: RunLogger) -> None:
        row = EvalRow(
            self.step,
            self.config.seed,
            result.mean,
            result.std,
            len(result.returns),
            self.wall_seconds,
        )
        self.rows = [r for r in self.rows if r.step != row.step] + [row]
        write_eval_csv(self.files.evaluations, self.rows)
        logger.evaluation(row, result)
        if self.on_evaluation is not None:
            event = EvaluationEvent(self.step, result, self.folder)
            goes_on = self.on_evaluation(event)
            # None goes on; a comparison of NumPy's numbers is an np.bool_
            self.stop_requested |= isinstance(goes_on, bool | np.bool_) and not goes_on

    # -- NaN guards ------------------------------------------------------------------------------

    def check_finite(self) -> None:
        """Stop if a loss since the last check, or a parameter, is NaN or inf.

        The last checkpoint has no NaN: every save checks first.

        Raises:
            NonFiniteError: with the value, its place, and the post-mortem's path.
        """
        update = int(self.agent.first_bad_update)
        if update >= 0:
            self._stop_for(f"a loss (critic or actor) was NaN or infinite at update {update}")
        self._check_gradients()
        name = self.agent.first_bad_parameter()
        if name is not None:
            self._stop_for(
                f"{name} was NaN or infinite after update {self.agent.updates}, though no loss was"
            )

    def _check_gradients(self) -> None:
        updates, with_nan = self.agent.actor_updates, int(self.agent.nan_gradients)
        new = updates - self._gradients_seen[0]
        if new < NAN_GRADIENT_WINDOW:
            return
        share = (with_nan - self._gradients_seen[1]) / new
        self._gradients_seen = updates, with_nan
        if share > NAN_GRADIENT_SHARE:
            self._stop_for(
                f"the actor's gradient held NaN in {share:.0%} of the last {new} actor updates"
                f" (at most {NAN_GRADIENT_SHARE:.0%} can be left out), though its loss was finite"
            )

    @contextmanager
    def _stops_for_environments(self) -> Iterator[None]:
        """Stop the run for what an environment gave, or if a worker is lost."""
        try:
            yield
        except NotFiniteError as error:
            self._stop_for(
                f"{self.config.env} gave a NaN or infinite {error.what} at step {self.step}"
                f" ({error.where})"
            )
        except NotFiniteActionError as error:
            self.check_finite()
            self._stop_for(f"{error} at step {self.step}")
        except AllWorkersLostError as error:
            self.save()
            raise InputError(
                f"{error}; the run is saved: go on with --resume {self.folder}"
            ) from None
        except WorkerLostError as error:
            if not self.files.checkpoint.exists():
                raise
            raise InputError(
                f"{error}; {self.files.checkpoint} is the last good checkpoint: go on with"
                f" --resume {self.folder}"
            ) from None

    def _stop_for(self, reason: str) -> NoReturn:
        if not self.files.checkpoint.exists():  # nothing was learned, so no post-mortem
            raise NonFiniteError(reason)
        path = self.files.post_mortem
        found = PostMortem(reason=reason, metrics=metrics(self.agent))
        checkpoint.save(path, self.record(found), self.agent.state_dict())
        raise NonFiniteError(
            f"{reason}; the state then is in {path}, the last good one in {self.files.checkpoint}"
        )

    def close(self) -> None:
        """Close the environments."""
        self.rollouts.close()
        self.evaluator.close()
        if self._lock is not None:
            self._lock.release()
