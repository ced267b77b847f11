"""LoadedPolicy: a policy from a file, for programs; `load_policy`, `evaluate_policy`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dime_robot.envs import EnvLike, action_bounds, env_name, make_env, sizes_of
from dime_robot.evaluation.rollout import (
    Evaluation,
    Evaluator,
    FloatArray,
    Policy,
    Watch,
    in_batches,
    require_finite_actions,
)
from dime_robot.runtime.contract.config_diff import differences
from dime_robot.runtime.contract.interpolation import Interpolation, recorded, require_trained
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.env_name import require_file_may_name
from dime_robot.runtime.policy.noise import (
    NoiseMode,
    NoiseSource,
    require_mode,
    require_seed,
)
from dime_robot.sim.config.trust import typed_env
from dime_robot.training.provenance import TASK
from dime_robot.training.run_folder import RunFolder

_MAX_PARALLEL = 20  # environments that step together
_EVALUATION = 2  # key of episodes among the seeds derived from one number
_OTHER_FILES = (".yaml", ".yml", ".csv", ".json", ".html", ".xml", ".mp4", ".bin", ".npz")


class LoadedPolicy:
    """The policy of a checkpoint or a policy.onnx, with one interface for both.

    Pickling and copying store the path and the state of the noise; the file is read again, and
    refused if it has changed.

    Args:
        act_with: raw observations (B, n_obs), unit normals (B, N+1, n_act) -> actions (B, n_act).
        spec: the contract.
        env: name of the environment that it was trained in.
        noise_shape: (N+1, n_act), the unit normals of one action.
        noise: mode of the noise of `act`.
        seed: of the noise.
        path: the file; none for an agent that needs no file.
        digest: SHA-256 of the file's content.
        task: digest of the robot task that it was trained in, if the file records one.
        interpolation: of the commands that it was trained with; None: it does not matter.
    """

    def __init__(
        self,
        act_with: Policy,
        spec: PolicySpec,
        env: str,
        noise_shape: tuple[int, int],
        *,
        noise: NoiseMode = "fresh",
        seed: int = 0,
        path: Path | None = None,
        digest: str = "",
        task: str | None = None,
        interpolation: Interpolation | None = None,
    ) -> None:
        require_mode(noise)
        require_seed(seed)
        self.act_with, self.spec, self.env, self.noise_shape = act_with, spec, env, noise_shape
        self.path, self.task, self._digest = path, task, digest
        self.interpolation = interpolation
        self._mode, self._seed = noise, seed
        self._sources: dict[NoiseMode, NoiseSource] = {}  # of the modes in use
        self._bounds: tuple[FloatArray, FloatArray] | None = None

    def act(self, observation: npt.ArrayLike) -> FloatArray:
        """Sample an action for one observation, or one each for several.

        Args:
            observation: raw values as the environment returns them, (n_obs,) or (B, n_obs).

        Returns:
            A new array of actions in [-1, 1], shape (n_act,) or (B, n_act).

        Raises:
            InputError: another shape, or the policy's action is NaN.
        """
        return self._act(observation, self._mode)

    def predict(
        self,
        observation: npt.ArrayLike,
        state: None = None,
        episode_start: object = None,
        deterministic: bool = True,
    ) -> tuple[FloatArray, None]:
        """Return actions with the interface of a Stable-Baselines3 policy.

        Args:
            observation: as for `act`, shape (n_obs,) or (B, n_obs).
            state: unused, as the policy has none.
            episode_start: unused.
            deterministic: without any noise; else with fresh noise.

        Returns:
            Actions in the environment's own units, shape (n_act,) or (B, n_act), and None.

        Raises:
            InputError: as for `act`, or the environment is not available.
        """
        if self._bounds is None:
            if self.path is not None:
                require_file_may_name(self.env, self.path)
            self._bounds = action_bounds(self.env)
        low, high = self._bounds
        actions = self._act(observation, "zero" if deterministic else "fresh")
        return low + (actions + 1) / 2 * (high - low), None

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode: held noise is drawn anew; a seed restarts the noise."""
        if seed is not None:
            require_seed(seed)
        self._seed = self._seed if seed is None else seed
        for source in self._sources.values():
            source.reset(seed)

    def _act(self, observation: npt.ArrayLike, mode: NoiseMode) -> FloatArray:
        n_obs = self.spec.n_obs
        shape = f"({n_obs},) or (B, {n_obs})"
        try:
            values = np.asarray(observation, dtype=np.float32)
        except (TypeError, ValueError):
            raise InputError(
                f"expected an observation of shape {shape}, got {observation!r:.60}"
            ) from None
        if values.ndim not in (1, 2) or values.shape[-1] != n_obs or not len(values):
            raise InputError(f"expected an observation of shape {shape}, got {values.shape}")
        if not np.isfinite(values).all():
            index = int(np.argwhere(~np.isfinite(values))[0, -1])
            raise InputError(
                f"expected a finite observation, got NaN or infinity in element {index}"
            )
        if mode not in self._sources:
            self._sources[mode] = NoiseSource((1, *self.noise_shape), self._seed, mode)
        source, rows = self._sources[mode], values.reshape(-1, n_obs)
        noise = np.concatenate([source.draw().copy() for _ in rows])
        actions = np.array(self.act_with(rows, noise))
        return actions[0] if values.ndim == 1 else actions

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            raise TypeError("expected a policy out of a file: an agent without one is not copied")
        kept = ("_digest", "_mode", "_seed", "_sources")
        return load_policy, (self.path.resolve(),), {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["_digest"] != self._digest:
            raise InputError(
                f"{self.path}: expected the policy that was copied, got another one: the file was"
                " replaced since; load it anew"
            )
        self.__dict__.update(state)


def policy_file(path: Path) -> Path:
    """Return the file of a policy; for a run folder the best checkpoint, or else the last one.

    Raises:
        InputError: neither exists, or it is a file of another kind.
    """
    if path.is_dir():
        return RunFolder(path).best_policy()
    if path.suffix.lower() in _OTHER_FILES:
        raise InputError(
            f"{path}: expected a policy (ckpt.pt, best.pt or policy.onnx), got a {path.suffix} file"
        )
    return path


def load_policy(path: Path | str, *, noise: NoiseMode = "fresh", seed: int = 0) -> LoadedPolicy:
    """Read a checkpoint, a run folder or an exported policy; the latter needs no torch.

    Args:
        path: ckpt.pt, best.pt, policy.onnx, or a run folder.
        noise: mode of the noise of `act`; see `runtime/policy/noise.py`.
        seed: of the noise.

    Raises:
        InputError: the file cannot be used, or contains NaN.
    """
    path = policy_file(Path(path))
    options: dict[str, Any] = {"noise": noise, "seed": seed, "path": path}
    if path.suffix == ".onnx":
        from dime_robot.runtime.policy.onnx_policy import OnnxPolicy

        exported = OnnxPolicy(path)
        shape = (exported.file.diffusion_steps + 1, exported.spec.n_act)
        act = require_finite_actions(in_batches(exported.act_with, exported.batch), str(path))
        options["digest"] = exported.file.policy_digest
        options["task"] = exported.file.provenance.task_digest
        options["interpolation"] = exported.file.interpolation
        return LoadedPolicy(act, exported.spec, exported.file.provenance.env, shape, **options)

    from dime_robot.training import checkpoint

    actor, loaded = checkpoint.load_actor(path)
    act = require_finite_actions(actor.act_numpy, str(path))
    shape = (actor.steps + 1, loaded.spec.n_act)
    options["digest"] = loaded.digest
    options["task"] = loaded.record.provenance.get(TASK)
    options["interpolation"] = recorded(loaded.record.provenance)
    return LoadedPolicy(act, loaded.spec, loaded.config.env, shape, **options)


def require_fitting_env(
    env: EnvLike, spec: PolicySpec, trained: Interpolation | None = None
) -> None:
    """Refuse an environment that does not fit a policy.

    Args:
        env: what `make_env` takes.
        spec: the policy's contract.
        trained: the interpolation of commands that it was trained with; None: not compared.

    Raises:
        InputError: another contract, other sizes, or another interpolation.
    """
    name, made = env_name(env), make_env(env)
    got = sizes_of(made)
    made.close()
    own = getattr(made.unwrapped, "policy_spec", None)
    if own is not None and (found := differences(spec, own)):
        place, ours, theirs = found[0]
        raise InputError(
            f"{name}: the policy's contract says {place} = {ours}, the environment's {theirs}"
            f" ({len(found)} differences): the policy was not trained for this robot"
        )
    if got != (spec.n_obs, spec.n_act):
        raise InputError(
            f"{name}: the policy has {spec.n_obs} observations and {spec.n_act} actions, the"
            f" environment has {got[0]} and {got[1]}"
        )
    interpolation = getattr(made.unwrapped, "interpolation", None)
    if trained is not None and isinstance(interpolation, Interpolation):
        require_trained(trained, interpolation, spec.name, name)


def evaluate_policy(
    policy: LoadedPolicy | Path | str,
    *,
    episodes: int = 20,
    env: EnvLike | None = None,
    noise: NoiseMode = "fresh",
    seed: int = 0,
    watch: Watch | None = None,
) -> Evaluation:
    """Run whole episodes and return their statistics.

    Args:
        policy: a policy, or the file of one.
        episodes: number of episodes.
        env: the environment as `train_policy` takes it, by default the one that the policy was
            trained in; with an object every episode runs in a copy.
        noise: mode of the sampler's noise.
        seed: initial states and noise are derived from it.
        watch: called before every step with the number of ended episodes, that of all episodes,
            and the steps of the running ones.

    Returns:
        The evaluation; `print` shows it as one line.

    Raises:
        InputError: the file or the environment cannot be used, or they do not fit.
    """
    if isinstance(episodes, bool) or not isinstance(episodes, int) or episodes < 1:
        raise InputError(f"episodes: expected a whole number of 1 or more, got {episodes!r:.60}")
    require_mode(noise)
    require_seed(seed)
    loaded = policy if isinstance(policy, LoadedPolicy) else load_policy(policy)
    if env is None and loaded.path is not None:
        require_file_may_name(loaded.env, loaded.path)
    if isinstance(env, str):
        typed_env(env)  # the program names it
    given = loaded.env if env is None else env
    require_fitting_env(given, loaded.spec, loaded.interpolation)
    return run_episodes(loaded, given, episodes, noise, seed, watch)


def run_episodes(
    policy: LoadedPolicy,
    env: EnvLike,
    episodes: int,
    noise: NoiseMode,
    seed: int,
    watch: Watch | None = None,
) -> Evaluation:
    """Run the episodes of `evaluate_policy`; policy and environment have to fit."""
    evaluator = Evaluator(env, policy.noise_shape, min(_MAX_PARALLEL, episodes), seed=seed)
    try:
        return evaluator.run(policy.act_with, episodes, (seed, _EVALUATION), noise, watch)
    finally:
        evaluator.close()
