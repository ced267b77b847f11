"""Videos of a policy, where rendering works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dime_robot.envs import make_env
from dime_robot.rollout import Policy, episode_noise
from dime_robot.runtime.errors import InputError

FRAME_RATE = 25  # [1/s], roughly: every so many control steps become a frame


def record_video(
    env_name: str, policy: Policy, shape: tuple[int, int], seed: int, path: Path
) -> int:
    """Render one episode to an MP4 file; gives the number of frames.

    Raises:
        InputError: rendering does not work here, or the environment has no picture.
    """
    import imageio.v2 as imageio

    try:
        env = make_env(env_name, render_mode="rgb_array")
        noise = episode_noise(shape, seed, "fresh")
        obs, _ = env.reset(seed=seed)
        frames, steps, done = [env.render()], 0, False
    except InputError:
        raise
    except Exception as error:  # every GL back end fails in its own way
        raise InputError(f"no video: rendering does not work here ({_one_line(error)})") from None
    rate = env.metadata.get("render_fps") or 50
    every = max(1, round(rate / FRAME_RATE))
    while not done:
        action = policy(obs[None], noise.draw()[None])[0]
        obs, _, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
        steps += 1
        if steps % every == 0:
            frames.append(env.render())
    env.close()
    pictures: list[npt.ArrayLike] = [np.asarray(frame) for frame in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    imageio.mimwrite(
        path, pictures, fps=rate / every, codec="libx264", macro_block_size=2, quality=6
    )
    return len(pictures)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def record_in_child(checkpoint_path: Path, env: str, video_path: Path, seed: int) -> str | None:
    """Record a video in a process of its own, where a broken GL library can do no harm.

    Without a display the back ends egl and osmesa are tried in turn. Gives None when the video
    was written, else the sentence that says why not.
    """
    own = os.environ.get("MUJOCO_GL")
    choices = [own] if own else ([None] if os.environ.get("DISPLAY") else ["egl", "osmesa"])
    reason = ""
    for choice in choices:
        environment = {**os.environ, **({"MUJOCO_GL": choice} if choice else {})}
        command = [sys.executable, "-m", "dime_robot.evaluate", str(checkpoint_path)]
        command += [
            "--env",
            env,
            "--episodes",
            "0",
            "--seed",
            str(seed),
            "--video",
            str(video_path),
        ]
        try:
            child = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=300
            )
        except subprocess.TimeoutExpired:
            return "no video: rendering took longer than 300 s"
        if child.returncode == 0 and video_path.exists():
            return None
        lines = [line for line in child.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"the renderer ended with code {child.returncode}"
    return reason.removeprefix("error: ") + "; on Debian: apt install libegl1 libgl1 libosmesa6"
