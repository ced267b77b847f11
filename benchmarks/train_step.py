"""How long one update takes, against other forms of the same mathematics.

    python benchmarks/train_step.py --preset laptop [--compile] [--json]

`plain` is the unoptimised form (`plain_dime.py`). `jax` is the same update in JAX, jitted as a
whole (`jax_dime.py`), and `sbx_sac`, `sbx_crossq` are the updates of SBX's SAC and CrossQ, of the
same sizes, which have a Gaussian policy: the difference is the cost of a diffusion policy. These
are timed if the extra `bench` is installed. This project's update runs as in training, the others
with their default settings (`AS_THEY_COME`). All run interleaved in this process, on one core (on a
GPU: --device cuda), and the forms of DIME are checked to give the same losses before timing. Ratios
are the other's time / this project's time, so above 1 this project is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # the other forms are in this folder
    # compilation is timed with an empty cache, without results of earlier runs
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()
    if "cuda" not in " ".join(sys.argv):  # one core, before JAX counts those it may use
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"

import torch

from benchmarks.plain_dime import PlainDIME
from dime_robot.learning.config import TrainConfig
from dime_robot.learning.cuda_graphs import keep_freed_memory, set_up
from dime_robot.learning.dime import DIME
from dime_robot.learning.replay_buffer import Batch, ReplayBuffer
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.training.presets import preset_config
from dime_robot.training.provenance import provenance

# the tasks each preset is meant for: (n_obs, n_act) of cart-pole, HalfCheetah-v5, Humanoid-v5
SIZES = {"tiny": (5, 1), "laptop": (17, 6), "official": (348, 17)}
ROWS = 10_000  # of made-up replay data
OURS = ("plain", "eager", "compiled", "graphs")
# in training the C library keeps freed memory (`keep_freed_memory`), in a JAX program it does not;
# `jax_kept` is JAX's update in a process that keeps it
AS_THEY_COME = ("jax", "sbx_sac", "sbx_crossq")
Calls = Mapping[str, Callable[[], Any]]


def agents(preset: str, device: torch.device, compile_ours: bool) -> dict[str, DIME]:
    """Make the torch variants, all with the same weights."""
    spec = PolicySpec.flat(preset, *SIZES[preset])
    config = preset_config(preset, "benchmark").model_copy(update={"graphs": False})

    def ours(**changes: bool) -> DIME:
        return DIME(spec, config.model_copy(update=changes), device)

    found: dict[str, DIME] = {"eager": ours()}
    plain = PlainDIME(spec, config, device)
    plain.copy_weights(found["eager"])
    found = {"plain": plain, **found}
    if compile_ours:
        found["compiled"] = ours(compile=True)
    if device.type == "cuda":
        found["graphs"] = ours(graphs=True)
    return found


def made_up_replay(agent: DIME) -> ReplayBuffer:
    """Make replay data of unit normals."""
    n_obs, n_act = agent.actor.n_obs, agent.actor.n_act
    replay = ReplayBuffer(ROWS, n_obs, n_act, agent.device, margin=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(ROWS):
        obs, action, next_obs, reward = torch.randn(
            2 * n_obs + n_act + 1, generator=generator
        ).split([n_obs, n_act, n_obs, 1])
        replay.add(obs.numpy(), torch.tanh(action).numpy(), next_obs.numpy(), float(reward), False)
    return replay


def largest_difference(variants: Mapping[str, DIME], batch: Batch) -> float:
    """Return the losses' largest relative difference to the plain form, same weights and noise."""
    worst = 0.0
    noise = variants["plain"].noise(len(batch.obs))
    losses: dict[str, list[float]] = {}
    for name, agent in variants.items():
        with torch.no_grad():
            sample = agent.actor.sample(batch.obs, noise)
            actor_loss, _ = agent.actor_loss(batch.obs, sample)
            critic_loss, *_ = agent.critic_loss(batch, sample.action, sample.bound)
        losses[name] = [actor_loss.item(), critic_loss.item()]
    for values in losses.values():
        for ours, plain in zip(values, losses["plain"], strict=True):
            worst = max(worst, abs(ours - plain) / abs(plain))
    return worst


def jax_update(agent: DIME, replay: ReplayBuffer) -> Callable[[], None]:
    """Return a call of the JAX form for the steps of one delay cycle, from the same weights."""
    import jax
    import jax.numpy as jnp

    from benchmarks.jax_dime import JaxDIME, Transitions

    config, updates = agent.config, int(agent.config.update_to_data)
    theirs = JaxDIME(config, agent.actor.n_act)
    state = theirs.begin(agent)
    rows = [jnp.asarray(column.cpu().numpy()) for column in replay.newest(ROWS)]
    dues = [
        tuple(n % config.policy_delay == 0 for n in range(first, first + updates))
        for first in range(1, config.policy_delay * updates, updates)
    ]
    size = updates * config.batch_size

    def cycle() -> None:
        nonlocal state
        for due in dues:
            state = theirs.learn(state, Transitions(*rows), size, due)
        jax.block_until_ready(state)

    return cycle


def sbx_updates(config: TrainConfig, sizes: tuple[int, int]) -> dict[str, Callable[[], None]]:
    """Return the updates of SBX's SAC and CrossQ for as many steps, same sizes and batch."""
    import gymnasium
    import jax
    import numpy as np
    import sbx
    from stable_baselines3.common.logger import configure

    class Nothing(gymnasium.Env[np.ndarray, np.ndarray]):
        """An environment with spaces of the required size; it is never stepped."""

        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (sizes[0],), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (sizes[1],), np.float32)

    found: dict[str, Callable[[], None]] = {}
    for name in ("SAC", "CrossQ"):
        model = getattr(sbx, name)(
            "MlpPolicy",
            Nothing(),
            batch_size=config.batch_size,
            buffer_size=ROWS,
            gradient_steps=int(config.update_to_data),
            policy_delay=config.policy_delay,
            policy_kwargs={
                "net_arch": {
                    "pi": [config.actor_width] * config.actor_depth,
                    "qf": [config.critic_width] * config.critic_depth,
                }
            },
        )
        model.set_logger(configure(None, []))
        random = np.random.default_rng(0)
        for _ in range(1000):
            obs, next_obs = random.standard_normal((2, 1, sizes[0])).astype(np.float32)
            action = random.uniform(-1, 1, (1, sizes[1])).astype(np.float32)
            model.replay_buffer.add(obs, next_obs, action, np.zeros(1), np.zeros(1), [{}])

        def cycle(model: Any = model) -> None:
            for _ in range(config.policy_delay):
                model.train(int(config.update_to_data), config.batch_size)
            jax.block_until_ready((model.policy.actor_state, model.policy.qf_state))

        found[f"sbx_{name.lower()}"] = cycle
    return found


def interleaved(calls: Calls, repeats: int) -> dict[str, float]:
    """Return median seconds of each call, interleaved so that other load affects all equally."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    on_gpu = torch.cuda.is_available()
    for turn in range(repeats + 5):
        for name, call in calls.items():
            keep_freed_memory(name not in AS_THEY_COME)
            if on_gpu:
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            if on_gpu:
                torch.cuda.synchronize()
            if turn >= 5:  # compiled, captured, warm
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def rows_of(times: Mapping[str, float], count: int) -> dict[str, dict[str, float]]:
    """Return milliseconds per environment step, and the ratios to this project's variants."""
    found = {}
    for name, seconds in times.items():
        row = {"median_ms": 1e3 * seconds / count}
        if name in OURS:
            row["ratio_to_plain"] = times["plain"] / seconds
            row["ratio_to_eager"] = times["eager"] / seconds
            row |= {
                f"ratio_to_{other}": times[other] / seconds
                for other in ("jax", "jax_kept")
                if other in times
            }
        found[name] = row
    return found


def measure(preset: str, device: torch.device, compile_ours: bool, repeats: int) -> dict[str, Any]:
    """Return median milliseconds and ratios, by part and variant."""
    variants = agents(preset, device, compile_ours)
    eager = variants["eager"]
    config = eager.config
    set_up(device, config.threads or (1 if device.type == "cpu" else 0))
    replay = made_up_replay(eager)
    batch = replay.newest(config.batch_size)
    difference = largest_difference(variants, batch)
    if difference > 1e-4:
        raise SystemExit(f"the variants' losses differ by {difference:.1e}; timing would mislead")

    def delay_cycle(agent: DIME) -> None:
        """Run as many environment steps as the policy delay: every phase once."""
        for _ in range(config.policy_delay):
            agent.learn(replay, int(config.update_to_data))

    compile_began = time.perf_counter()
    if compile_ours:
        delay_cycle(variants["compiled"])
    compile_seconds = time.perf_counter() - compile_began if compile_ours else None

    updates: dict[str, Callable[[], Any]] = {
        name: (lambda agent=agent: delay_cycle(agent)) for name, agent in variants.items()
    }
    if find_spec("jax") is not None:
        updates["jax"] = updates["jax_kept"] = jax_update(eager, replay)
    if find_spec("sbx") is not None:
        updates |= sbx_updates(config, SIZES[preset])
    eagerly = {name: agent for name, agent in variants.items() if name != "graphs"}
    parts: dict[str, tuple[Calls, int]] = {
        "critic_step": (
            {n: (lambda agent=agent: agent.critic_step(batch)) for n, agent in eagerly.items()},
            1,
        ),
        "actor_step": (
            {n: (lambda agent=agent: agent.actor_step(batch.obs)) for n, agent in eagerly.items()},
            1,
        ),
        "update": (updates, config.policy_delay),
    }
    report = {
        part: rows_of(interleaved(calls, repeats), count) for part, (calls, count) in parts.items()
    }
    best = report["update"]["graphs" if "graphs" in variants else "eager"]
    return {
        "preset": preset,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "largest_loss_difference": difference,
        "cold_compile_s": compile_seconds,
        "jax_ms": report["update"].get("jax", {}).get("median_ms"),
        "ratio_to_jax": best.get("ratio_to_jax"),
        "parts": report,
        "machine": provenance(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=list(SIZES), default="laptop")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--compile", action="store_true", help="time --compile too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = measure(options.preset, torch.device(options.device), options.compile, options.repeats)
    if options.json:
        print(json.dumps(report))
        return
    print(f"{report['preset']} on {report['device']}, {report['threads']} thread(s)")
    if report["cold_compile_s"] is not None:
        print(f"compiled in {report['cold_compile_s']:.0f} s")
    for part, variants in report["parts"].items():
        for name, values in variants.items():
            ratios = "".join(
                f"   {value:.2f} x {key.removeprefix('ratio_to_')}"
                for key, value in values.items()
                if key.startswith("ratio")
            )
            print(f"{part:12s} {name:10s} {values['median_ms']:9.2f} ms{ratios}")


if __name__ == "__main__":
    main()
