"""TrainConfig: every setting of a training run; `training/presets.py` has the presets."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from dime_robot.runtime.contract.config_diff import differences
from dime_robot.runtime.contract.policy_spec import StrictModel
from dime_robot.runtime.io.errors import InputError, first_problem

MAX_COUNT = 10**12  # of steps, updates and intervals
MAX_RETURN = 1e12
FINEST = 100_000  # largest denominator of updates per step
MESSAGE = 256  # transitions at least that a worker of a cluster sends at once
FREE = ("workers",)  # settings that no result depends on: a run may go on with another value
PresetName = Literal["official", "laptop", "tiny", "parallel", "parallel-gpu"]

# bounds; the memory of the machine is checked once the sizes are known
Count = Annotated[int, Field(gt=0, le=MAX_COUNT)]
CountFromZero = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Width = Annotated[int, Field(gt=0, le=65_536)]
Depth = Annotated[int, Field(gt=0, le=100)]
Episodes = Annotated[int, Field(gt=0, le=10_000)]
Scale = Annotated[float, Field(gt=0, le=1e6)]
StepSize = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Return = Annotated[float, Field(ge=-MAX_RETURN, le=MAX_RETURN)]
# whole numbers stay whole, also in files: 2, not 2.0
Ratio = Annotated[float, AfterValidator(lambda number: int(number) if number % 1 == 0 else number)]


# type of a validation error -> what was expected, with the entries of its context
_EXPECTED = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "literal_error": "one of {expected}",
}


class SettingError(InputError):
    """A setting has a value that does not fit.

    Attributes:
        name: of the setting.
        problem: what was expected and found.
    """

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}")
        self.name, self.problem = name, problem


def _refusal(error: ValidationError) -> InputError:
    """Describe the first error of a validation in this project's words."""
    problem = error.errors(include_url=False)[0]
    expected = _EXPECTED.get(problem["type"])
    if expected is None or len(problem["loc"]) != 1:
        return InputError(first_problem(error))
    wanted = expected.format_map(problem.get("ctx", {}))
    return SettingError(str(problem["loc"][0]), f"expected {wanted}, got {problem['input']!r:.60}")


class TrainConfig(StrictModel):
    """Every setting of a training run. Without a preset: the paper's (`official`).

    Raises:
        InputError: an unknown key, or a value that does not fit.
    """

    # what to learn, and how long
    env: str = Field(
        "sim:cartpole",
        description="a Gymnasium id, dm_control/DOMAIN-TASK-v0, or sim:NAME from sim_configs/",
    )
    preset: PresetName = Field("official", description="sizes the other settings start from")
    steps: Count = Field(1_000_000, description="length of the run [environment steps]")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of everything random in the run")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads of torch; 0: torch's own choice"
    )
    compile: bool = Field(
        False, description="compile the diffusion step and the losses: a minute first, then faster"
    )
    graphs: bool = Field(True, description="on a GPU, run the update as CUDA graphs")
    overlap: bool = Field(
        False,
        description="update while the environment steps, which learns from the newest transition"
        " one step later; saves time on a GPU, or with --workers",
    )

    # task
    reward_scale: Scale = Field(
        1.0, description="factor on rewards inside the learner; returns are unscaled [1]"
    )
    discount: Decay = Field(0.99, description="gamma, per control step [1]")
    v_min: Return = Field(-200.0, description="lowest atom [scaled return]")
    v_max: Return = Field(200.0, description="highest atom [scaled return]")

    curriculum: bool = Field(
        True, description="begin with the levels of a robot task's file, where it has some"
    )

    # policy
    actor: Literal["diffusion", "gaussian"] = Field(
        "diffusion", description="DIME's, or a tanh-squashed Gaussian to compare with"
    )
    diffusion_steps: int = Field(16, gt=0, le=1000, description="N, steps from prior to action")
    dt_init: float = Field(0.1, gt=0, le=100, description="initial diffusion step size dt [1]")
    learn_step_size: bool = Field(
        True, description="learn dt and the friction phi with the actor, or leave them as they are"
    )
    actor_width: Width = Field(256, description="units per hidden layer")
    actor_depth: Depth = Field(3, description="hidden layers of the trunk")
    actor_lr: StepSize = Field(3e-4, description="Adam step size of the actor")
    gradient_clip: Scale = Field(1.0, description="elementwise bound on actor gradients")
    normalize_observations: bool = Field(
        False,
        description="the actor's first operation divides by running standard deviations of the"
        " observations, in place of the contract's scale",
    )
    policy_delay: Count = Field(3, description="critic updates per actor update")
    actor_start: CountFromZero = Field(
        0,
        description="critic updates before the actor's first: with --init, so that it does not"
        " follow critics that know another task [updates]",
    )

    # temperature
    alpha_init: Scale = Field(1.0, description="initial temperature [scaled reward/nat]")
    alpha_lr: float = Field(1e-3, ge=0, le=1, description="Adam step size of log alpha; 0: fixed")
    path_cost_target: float = Field(
        4.0,
        ge=-1e6,
        le=1e6,
        description="target of the mean path cost R per action dimension [nat]",
    )

    # critic
    critic_width: Width = Field(2048, description="units per hidden layer")
    critic_depth: Depth = Field(2, description="hidden layers")
    asymmetric_critic: bool = Field(
        False,
        description="the critics also see what the robot cannot measure, which a robot task's file"
        " names (task.privileged); the policy never does",
    )
    atoms: int = Field(101, ge=2, le=10_001, description="atoms of the return distribution")
    critic_lr: StepSize = Field(3e-4, description="Adam step size of the critics")
    critic_entropy: float = Field(
        0.005, ge=0, le=1e3, description="bonus on the entropy of the predicted distribution"
    )
    renorm_warmup: CountFromZero = Field(
        100_000, description="critic passes before batch renormalisation [updates]"
    )
    adam_b1: Decay = Field(0.5, description="Adam's first decay, actor and critic")

    # data
    batch_size: int = Field(256, ge=2, le=1_000_000, description="transitions per critic update")
    num_envs: int = Field(
        1, gt=0, le=4096, description="environments that step side by side and fill one replay"
    )
    workers: int = Field(
        0,
        ge=0,
        le=256,
        description="processes that the environments are divided among; 0: the learner's own. No"
        " result depends on it, except with --ray, and --resume may change it",
    )
    ray: bool = Field(
        False,
        description="the workers are processes of a Ray cluster that step by themselves and send"
        " the learner messages of at least 256 transitions: such a run does not repeat itself bit"
        " for bit",
    )
    update_to_data: Ratio = Field(
        2,
        ge=1 / FINEST,
        le=1000,
        description="critic updates per environment step (UTD); a fraction with many environments,"
        " such as 0.125: 2 updates per 16 steps",
    )
    n_step: int = Field(
        1,
        gt=0,
        le=100,
        description="rewards that a target adds up before the critic's value; fewer where an"
        " episode ends",
    )
    symmetry: bool = Field(
        False,
        description="replace half of the sampled transitions by their left-right mirror images,"
        " which a robot's file states (symmetry)",
    )
    random_steps: Count = Field(
        5000, description="uniformly random actions before learning starts [steps]"
    )
    buffer_size: int = Field(1_000_000, gt=0, le=10**10, description="transitions kept for replay")

    # evaluation, logging, safety of the run
    eval_interval: Count = Field(3000, description="between evaluations [steps]")
    eval_episodes: Episodes = Field(5, description="episodes of an evaluation")
    final_episodes: int = Field(20, ge=20, le=10_000, description="episodes of the last evaluation")
    log_interval: Count = Field(250, description="between logged metrics [steps]")
    checkpoint_interval: Count = Field(5000, description="between checkpoints [steps]")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _refusal(error) from None

    @model_validator(mode="after")
    def _atoms_are_ordered(self) -> TrainConfig:
        if self.v_min >= self.v_max:
            raise ValueError(f"expected v_min < v_max, got {self.v_min} and {self.v_max}")
        return self

    @model_validator(mode="after")
    def _replay_holds_a_step_of_all(self) -> TrainConfig:
        if self.buffer_size < self.num_envs:
            raise ValueError(
                f"buffer_size: expected at least num_envs = {self.num_envs}, got {self.buffer_size}"
            )
        return self

    @model_validator(mode="after")
    def _every_worker_has_an_environment(self) -> TrainConfig:
        if self.workers > self.num_envs:
            raise ValueError(
                f"workers: expected at most num_envs = {self.num_envs}, as each steps at least one"
                f" environment, got {self.workers}"
            )
        return self

    @model_validator(mode="after")
    def _rays_workers_are_alike(self) -> TrainConfig:
        if not self.ray:
            return self
        if self.workers < 1 or self.num_envs % self.workers:
            raise ValueError(
                "workers: expected with --ray at least 1, and num_envs ="
                f" {self.num_envs} to be a multiple of it, got {self.workers}"
            )
        if self.overlap:
            raise ValueError("overlap: expected none with --ray, whose workers never wait, got it")
        if self.buffer_size < MESSAGE + self.num_envs:
            raise ValueError(
                f"buffer_size: expected room for a message, {MESSAGE + self.num_envs}, got"
                f" {self.buffer_size}"
            )
        return self

    def updates_at(self, step: int) -> int:
        """Return how many critic updates are due by a step of the run [updates].

        Args:
            step: environment steps so far, of all environments.
        """
        ratio = Fraction(self.update_to_data).limit_denominator(FINEST)
        return int(ratio * max(0, step - self.random_steps))


# How `train --help` shows the settings: the first one of a group -> title and help of the group
GROUPS = {
    "env": ("run", "What is trained, how long, and on what."),
    "reward_scale": ("task", "How rewards enter the learner; every task has its own defaults."),
    "actor": ("policy", "The actor: networks, diffusion, updates."),
    "alpha_init": ("temperature", "The weight of the policy's entropy."),
    "critic_width": ("critic", "The critics: networks, atoms, updates."),
    "batch_size": ("data", "Batches and replay."),
    "eval_interval": ("evaluation", "Evaluations, logs and checkpoints."),
}


def option(name: str) -> str:
    """Return a setting's name on a command line."""
    return "--" + name.replace("_", "-")


def option_words(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as the words of a command line."""
    words = []
    for name, value in settings.items():
        if isinstance(value, bool):
            words.append(option(name if value else f"no_{name}"))
        else:
            words += [option(name), str(value)]
    return words


def changes(config: TrainConfig, base: TrainConfig) -> dict[str, Any]:
    """Return the settings of `config` that differ from `base`."""
    return {name: value for name, value, _ in differences(config, base)}
