"""Videos of a policy, where rendering works."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dime_robot.envs import MAX_EPISODE_STEPS, make_env, time_limit
from dime_robot.evaluation.rollout import STARTUP, Policy, episode_noise, seed_of
from dime_robot.runtime.io.errors import InputError, in_one_line
from dime_robot.runtime.io.regular_files import draft_of

SUFFIX = ".mp4"
NO_RENDERING = "no video: rendering does not work here"
FRAME_RATE = 25  # [1/s], approximate: a frame is a whole number of control steps


def record_video(
    env_name: str, policy: Policy, shape: tuple[int, int], seed: int, path: Path
) -> int:
    """Render one episode to an MP4 file and return the number of frames.

    Raises:
        InputError: rendering does not work here, or the environment renders no image.
    """
    import imageio.v2 as imageio

    try:
        env = make_env(env_name, render_mode="rgb_array", startup_seed=seed_of(seed, STARTUP))
        noise = episode_noise(shape, seed, "fresh")
        obs, _ = env.reset(seed=seed)
        first = np.asarray(env.render())
    except InputError:
        raise
    except Exception as error:  # GL back ends raise different exceptions
        raise InputError(f"{NO_RENDERING} ({in_one_line(error)})") from None
    if first.ndim != 3:
        raise InputError(f"no video: {env_name} gives no picture (render_mode rgb_array)")
    rate = env.metadata.get("render_fps") or 50
    every = max(1, round(rate / FRAME_RATE))
    limit = time_limit(env) or MAX_EPISODE_STEPS
    draft = Path(f"{draft_of(path)}{SUFFIX}")  # an earlier file stays until this one is complete
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = imageio.get_writer(
            draft, fps=rate / every, codec="libx264", macro_block_size=2, quality=6
        )
    except Exception as error:  # imageio and ffmpeg raise different exceptions
        raise InputError(f"{path}: no video can be written ({in_one_line(error)})") from None
    count, steps, done = 0, 0, False
    with writer:  # frame by frame: the images of an episode would fill the memory
        writer.append_data(first)
        count += 1
        while not done:
            action = policy(obs[None], noise.draw()[None])[0]
            obs, _, terminated, truncated, _ = env.step(action)
            steps += 1
            done = terminated or truncated or steps >= limit
            if steps % every == 0:
                writer.append_data(np.asarray(env.render()))
                count += 1
    env.close()
    draft.replace(path)
    return count


def require_video_path(path: Path) -> None:
    """Refuse a path that no video can be written to.

    Raises:
        InputError: another suffix than .mp4, or a folder.
    """
    if path.suffix.lower() != SUFFIX:
        raise InputError(f"--video {path}: expected a file name that ends in {SUFFIX}")
    if path.is_dir():
        raise InputError(f"--video {path}: expected a file, got a folder")


def renders_in_this_process() -> bool:
    """Whether MUJOCO_GL or a display already chooses the GL back end."""
    return bool(os.environ.get("MUJOCO_GL") or os.environ.get("DISPLAY"))


def record_in_child(
    file: Path | None, video_path: Path, seed: int, options: Sequence[str] = ()
) -> str | None:
    """Record a video in a separate process, so that a crash of a GL library has no effect here.

    Without a display the back ends egl and osmesa are tried in turn. Returns None when the video
    was written, else the reason as one sentence.

    Args:
        file: a checkpoint or an exported policy; None where `options` name the policy.
        video_path: the file to write.
        seed: of the episode.
        options: further options of `python -m dime_robot.evaluate`.
    """
    own = os.environ.get("MUJOCO_GL")
    choices = [own] if own else ([None] if os.environ.get("DISPLAY") else ["egl", "osmesa"])
    reason = ""
    for choice in choices:
        environment = {**os.environ, **({"MUJOCO_GL": choice} if choice else {})}
        command = [sys.executable, "-m", "dime_robot.evaluate", *options]
        command += [str(file)] if file is not None else []
        command += ["--episodes", "0", "--seed", str(seed), "--video", str(video_path)]
        try:
            child = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=300
            )
        except subprocess.TimeoutExpired:
            return "no video: rendering took longer than 300 s"
        if child.returncode == 0 and video_path.exists():
            return None
        lines = [line for line in child.stderr.splitlines() if line.strip()]
        found = lines[-1] if lines else f"{NO_RENDERING} (it ended with code {child.returncode})"
        reason = reason or found.removeprefix("error: ")  # the first back end is the usual one
    hint = "; on Debian: apt install libegl1 libgl1 libosmesa6"
    return reason + (hint if reason.startswith(NO_RENDERING) else "")
