"""The update as one program: no waiting, nothing moves, and every way of running it is the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dime_robot.learning.cuda_graphs import WARM_UP, CudaGraphs
from dime_robot.learning.dime import DIME
from dime_robot.learning.means import RunningMeans
from dime_robot.learning.replay_buffer import Batch, ReplayBuffer
from dime_robot.training.presets import preset_config
from tests.learning.toy import flat_spec

OBS, ACT = 5, 2
UTD = 2  # critic updates of a step
SHORT = {"diffusion_steps": 2}  # compiling takes long: every step is unrolled
CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def make_agent(device: torch.device = CPU, **changes: Any) -> DIME:
    settings = {"v_min": -20.0, "v_max": 20.0, "batch_size": 32, **changes}
    config = preset_config("tiny", "Some-v0").model_copy(update=settings)
    return DIME(flat_spec(OBS, ACT), config, device)


def make_replay(device: torch.device = CPU, rows: int = 100) -> ReplayBuffer:
    replay = ReplayBuffer(200, OBS, ACT, device, margin=0)
    generator = torch.Generator().manual_seed(5)
    for i in range(rows):
        sizes = [OBS, ACT, OBS, 1]
        row = torch.randn(sum(sizes), generator=generator, dtype=torch.float32).split(sizes)
        obs, action, next_obs, reward = (part.numpy() for part in row)
        replay.add(obs, action.clip(-1, 1), next_obs, float(reward[0]), i % 9 == 0)
    return replay


def tensors(agent: DIME) -> dict[str, Tensor]:
    """All that has to stay where it is."""
    found = {"log_alpha": agent.log_alpha, "updates": agent._updates}
    found["first_bad_update"] = agent.first_bad_update
    found |= {f"actor.{name}": value for name, value in agent.actor.state_dict().items()}
    found |= {f"critic.{name}": value for name, value in agent.critic.state_dict().items()}
    for name in ("actor", "critic", "temperature"):
        for i, state in getattr(agent, f"{name}_optimizer").state_dict()["state"].items():
            found |= {f"{name}_optimizer.{i}.{key}": value for key, value in state.items()}
    return found


class NoWaiting(TorchDispatchMode):
    """Refuses operations whose result the host has to wait for."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        waits = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique")
        assert not any(name in str(func) for name in waits), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def test_an_update_never_waits_for_the_device() -> None:
    agent, replay = make_agent(), make_replay()
    with NoWaiting():
        for _ in range(3):  # every phase of the policy delay
            agent.learn(replay, UTD)
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        agent.alpha.item()


def test_nan_gradients_are_counted_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, replay = make_agent(), make_replay()
    original = torch.autograd.grad
    poison = [False]

    def grad(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        gradients = original(*args, **kwargs)
        if poison[0] and len(gradients) == len(agent.actor_parameters):
            gradients[0].view(-1)[0] = torch.nan
        return gradients

    monkeypatch.setattr(torch.autograd, "grad", grad)
    for poisoned in (False, True):
        poison[0] = poisoned
        with NoWaiting():
            for _ in range(3):
                agent.learn(replay, UTD)
    assert (agent.actor_updates, int(agent.nan_gradients)) == (4, 2)
    assert agent.actor_means.read()["actor/gradient_nan_share"] == 0.5
    assert agent.first_bad_parameter() is None


def test_everything_stays_where_it_is() -> None:
    agent, replay = make_agent(), make_replay()
    for _ in range(3):
        agent.learn(replay, UTD)
    places = {name: value.data_ptr() for name, value in tensors(agent).items()}
    values = {name: value.clone() for name, value in tensors(agent).items()}
    for _ in range(3):
        agent.learn(replay, UTD)
    assert {name: value.data_ptr() for name, value in tensors(agent).items()} == places
    changed = {name for name, value in tensors(agent).items() if not value.equal(values[name])}
    assert changed == places.keys() - {"first_bad_update"}


def test_fixed_step_sizes_stay_and_the_rest_learns() -> None:
    agent, replay = make_agent(learn_step_size=False), make_replay()
    before = {name: value.clone() for name, value in agent.actor.state_dict().items()}
    for _ in range(3):
        agent.learn(replay, UTD)
    after = agent.actor.state_dict()
    same = {name for name, value in after.items() if value.equal(before[name])}
    assert same == {"dt_raw", "friction_raw"}


def test_samples_follow_the_growing_replay() -> None:
    """The number of rows is read on the device: what was added last can be drawn."""
    replay = make_replay(rows=1)
    generator = torch.Generator().manual_seed(0)
    assert len(replay.sample(50, generator).reward.unique()) == 1
    for value in (7.0, 8.0):
        replay.add(*make_row(value))
    assert set(replay.sample(100, generator).reward.tolist()) >= {7.0, 8.0}


def make_row(reward: float) -> tuple[Any, ...]:
    import numpy as np

    return np.zeros(OBS), np.zeros(ACT), np.zeros(OBS), reward, False


def test_a_gaussian_learns_through_the_same_update() -> None:
    agent, replay = make_agent(actor="gaussian"), make_replay()
    before = {name: value.clone() for name, value in agent.actor.state_dict().items()}
    for _ in range(3):
        agent.learn(replay, UTD)
    assert all(not v.equal(before[k]) for k, v in agent.actor.state_dict().items())
    assert agent.noise(4).shape == (1, 4, ACT)


def test_means_are_of_what_was_added_since() -> None:
    means = RunningMeans(("a", "b"), CPU)
    assert means.read() == {}
    means.add(torch.tensor(1.0), torch.tensor(2.0, dtype=torch.float64))
    means.add(torch.tensor(3.0), torch.tensor(4.0))
    assert means.read() == {"a": 2.0, "b": 3.0}
    assert means.read() == {}


# -- compiled, and as graphs ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh_compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that was compiled before this run is used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def in_float64(device: torch.device = CPU, **changes: Any) -> DIME:
    """An agent whose every number is float64, away from its flat start."""
    agent = make_agent(device, **changes)
    agent.actor.double()
    agent.critic.double()
    leave_flat_start(agent)
    return agent


def leave_flat_start(agent: DIME) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in agent.actor.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def learn_beside(ours: DIME, theirs: DIME, updates: int) -> None:
    """Both learn the same from fresh minibatches; all they hold is equal to 1e-9 afterwards."""
    replay, generator = make_replay(), torch.Generator().manual_seed(4)
    for _ in range(updates):
        batch = Batch(*(c.double() for c in replay.sample(ours.config.batch_size, generator)))
        ours.generator.set_state(theirs.generator.get_state())
        ours.update(batch)
        theirs.update(batch)
    for name, value in tensors(ours).items():
        torch.testing.assert_close(
            value, tensors(theirs)[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.slow  # compiling takes most of a minute
@pytest.mark.filterwarnings("default")  # the compiler has its own
@pytest.mark.parametrize("width", [64, 256])
def test_compiled_update_is_the_eager_one(width: int, float64: None, fresh_compiler: None) -> None:
    """Across the end of the warm-up: from there on a gradient reads the running statistics."""
    settings = {"critic_width": width, "renorm_warmup": 20, "update_to_data": 1, **SHORT}
    learn_beside(in_float64(compile=True, **settings), in_float64(**settings), updates=60)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler has its own
def test_compiled_gradient_is_the_eager_one_at_the_papers_width(fresh_compiler: None) -> None:
    settings = {"critic_width": 2048, "atoms": 101, "batch_size": 256, "renorm_warmup": 0, **SHORT}
    eager, compiled = make_agent(**settings), make_agent(compile=True, **settings)
    batch = make_replay().sample(256, torch.Generator().manual_seed(4))
    leave_flat_start(eager)
    leave_flat_start(compiled)
    with torch.no_grad():
        sample = eager.actor.sample(batch.next_obs, eager.noise(256))
    compiled.generator.set_state(eager.generator.get_state())
    for agent in (eager, compiled):
        agent.actor_step(batch.obs)
    pairs = zip(compiled.actor.named_parameters(), eager.actor.parameters(), strict=True)
    actors = {name: (got.grad, expected.grad) for (name, got), expected in pairs}
    critics = {}
    parameters = dict(compiled.critic.named_parameters())
    for loss_of in (compiled._critic_loss, compiled.critic_loss):
        loss = loss_of(batch, sample.action, sample.bound)[0]
        found = torch.autograd.grad(loss, list(parameters.values()))
        for name, gradient in zip(parameters, found, strict=True):
            critics[name] = (*critics.get(name, ()), gradient)
    for name, (got, expected) in {**actors, **critics}.items():
        assert (got - expected).norm() <= 1e-5 * expected.norm(), name


@needs_gpu
def test_graphs_are_the_eager_update(float64: None) -> None:
    device = torch.device("cuda")
    eager, graphs = in_float64(device, graphs=False), in_float64(device, graphs=True)
    replay = make_replay(device)
    for _ in range(3 * (WARM_UP + 3)):
        eager.learn(replay, UTD)
        graphs.learn(replay, UTD)
    for name, value in tensors(graphs).items():
        torch.testing.assert_close(value, tensors(eager)[name], rtol=1e-9, atol=1e-9)


@needs_gpu
def test_a_replayed_graph_draws_new_numbers() -> None:
    device = torch.device("cuda")
    generator = torch.Generator(device).manual_seed(0)
    programs, drawn = CudaGraphs(generator, capture=True), torch.zeros(4, device=device)
    seen = []
    for _ in range(WARM_UP + 4):
        programs.run("draw", lambda: drawn.copy_(torch.rand(4, generator=generator, device=device)))
        seen.append(tuple(drawn.tolist()))
    assert len(set(seen)) == len(seen)


def test_without_capture_every_call_runs_the_body() -> None:
    programs, calls = CudaGraphs(torch.Generator(), capture=False), []
    for i in range(WARM_UP + 3):
        programs.run("key", lambda i=i: calls.append(i))  # type: ignore[misc]
    assert calls == list(range(WARM_UP + 3))
