"""Models that would exhaust the machine or wait for ever are refused before MuJoCo sees them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import SimConfig
from dime_robot.sim.model.loading import compile_model, load_model
from tests.malformed import within
from tests.paths import ROOT

BODY = '<body><geom size="1"/></body>'


def model(inside: str) -> str:
    return f"<mujoco>{inside}</mujoco>"


def world(inside: str) -> str:
    return model(f"<worldbody>{inside}</worldbody>")


def refused(path: Path, text: str) -> str:
    path.write_text(text)
    with within(2.0), pytest.raises(InputError) as raised:
        compile_model(path)
    message = str(raised.value)
    assert message.isprintable()
    assert len(message) < 400
    return message


BEYOND = {
    "copies": (world(f'<replicate count="1000000000">{BODY}</replicate>'), "got more by its repl"),
    "copies of copies": (
        world('<replicate count="500">' * 3 + BODY + "</replicate>" * 3),
        "model of up to 10,000 elements, copies counted",
    ),
    "a flexible body": (
        world('<flexcomp name="f" type="grid" count="999 999 9" spacing="1 1 1"/>'),
        "got more by its flexcomp",
    ),
    "many elements": (world(BODY * 6_000), "copies counted, got more by its"),
    "a texture": (
        model('<asset><texture name="t" builtin="flat" width="99999" height="99999"/></asset>'),
        "a texture of up to 67,108,864 points",
    ),
    "a height field": (
        model('<asset><hfield name="t" nrow="99999" ncol="99999" size="1 1 1 1"/></asset>'),
        "a hfield of up to 67,108,864 points",
    ),
    "memory": (model('<size memory="1000G"/>'), "expected memory up to 1,073,741,824, got"),
    "numbers of a user": (model('<size nuserdata="2000000000"/>'), "nuserdata up to 10,000,000"),
    "a sensor": (model('<sensor><user dim="2000000000"/></sensor>'), "user: expected dim up to"),
    "a mesh": (
        model('<asset><mesh name="m" builtin="plate" params="99999 99999"/></asset>'),
        "mesh: expected params up to 1,000",
    ),
    "an expanding entity": (
        '<!DOCTYPE x [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><mujoco model="&b;"/>',
        "without a document type",
    ),
    "depth": (world("<body>" * 5000 + "</body>" * 5000), "too deep"),
    "a device": (model('<include file="/dev/zero"/>'), "got a pipe, a device or a socket"),
    "itself": (model('<include file="x.xml"/>'), "already included"),
    "a library": (
        model('<extension><plugin plugin="/tmp/own.so"/></extension>'),
        "plugin /tmp/own.so not found",
    ),
}


@pytest.mark.parametrize("name", BEYOND)
def test_a_model_beyond_the_bounds_is_one_sentence(name: str, tmp_path: Path) -> None:
    text, words = BEYOND[name]
    assert words in refused(tmp_path / "x.xml", text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (model('<option iterations="2000000000" tolerance="0"/>'), "iterations in"),
        (model('<option ls_iterations="2000000000"/>'), "expected ls_iterations in"),
        (world("<body><freejoint/><geom size='1'/></body>" * 350), "degrees of freedom, got 2,100"),
    ],
)
def test_a_model_that_could_not_be_simulated_in_time(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_text(text)
    with within(4.0), pytest.raises(InputError, match=words):
        load_model(path, 0.002)


def test_a_control_step_is_no_million_steps() -> None:
    with pytest.raises(ValidationError, match="decimation"):
        SimConfig(model="x.xml", timestep=2e-8, decimation=1_000_000)


@pytest.mark.parametrize(
    "text",
    [
        model('<asset><mesh name="m" file="pipe.stl"/></asset>'),
        model('<compiler meshdir="sub"/><asset><mesh name="m" file="pipe.stl"/></asset>'),
        model('<compiler strippath="true"/><asset><mesh name="m" file="a/b/pipe.stl"/></asset>'),
        model('<asset><texture type="cube" name="t" fileright="pipe.stl"/></asset>'),
        model('<include file="pipe.stl"/>'),
        model('<include file="inner.xml"/>'),
        model('<asset><model name="m" file="inner.xml"/></asset>'),
    ],
)
def test_a_pipe_is_found_wherever_it_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "pipe.stl")
    os.mkfifo(tmp_path / "sub/pipe.stl")
    (tmp_path / "inner.xml").write_text(model('<asset><mesh name="m" file="pipe.stl"/></asset>'))
    assert "got a pipe, a device or a socket" in refused(tmp_path / "x.xml", text)


def test_copies_count_through_an_included_file(tmp_path: Path) -> None:
    inner = f'<mujocoinclude><replicate count="500">{BODY}</replicate></mujocoinclude>'
    (tmp_path / "inner.xml").write_text(inner)
    text = world('<replicate count="500"><include file="inner.xml"/></replicate>')
    assert "copies counted" in refused(tmp_path / "x.xml", text)


def test_what_is_no_harm_is_compiled(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    (tmp_path / "inner.xml").write_text(f"<mujocoinclude>{BODY}</mujocoinclude>")
    path.write_text(
        "\ufeff<?xml version='1.0' encoding='utf-8'?><!-- a -- it's b -- > "
        + '"'
        "--><mujoco model='a \"b\" <!-- no comment -->'><worldbody>"
        f'<replicate count="20">{BODY}</replicate><include file="inner.xml"/>'
        "</worldbody></mujoco>".replace("<!-- no comment -->", "")
    )
    compiled, _ = compile_model(path)
    assert compiled.nbody == 22


def test_the_command_says_so_within_a_second(tmp_path: Path) -> None:
    text = (ROOT / "tests/robots/arm_effort.yaml").read_text()
    (tmp_path / "arm.yaml").write_text(text)
    (tmp_path / "arm.xml").write_text(BEYOND["copies"][0])
    done = subprocess.run(
        [sys.executable, "-m", "dime_robot.config", "check", str(tmp_path / "arm.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "copies counted, got more by its replicate" in done.stderr
    assert "Traceback" not in done.stderr
