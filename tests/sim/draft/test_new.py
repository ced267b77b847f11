"""Drafts of configurations: what the check accepts unchanged, or one sentence why there is none."""

from __future__ import annotations

from pathlib import Path

import mujoco
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dime_robot import config
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.draft_request import DraftRequest
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.draft.new import Draft, draft
from dime_robot.sim.examination import examine
from dime_robot.sim.plant.plant import make_plant
from tests.sim.draft.models import ARM, DOG, DOG_URDF, GRIPPER, arm_urdf


def drafted(folder: Path, text: str, name: str = "bot.xml", **wanted: object) -> Draft:
    """Draft a configuration from a model's text, and check it once more as a user would."""
    model = folder / name
    model.write_text(text)
    result = draft(
        DraftRequest(str(model), output=folder / "out.yaml", **wanted)  # type: ignore[arg-type]
    )
    assert examine(str(result.path)).problems == []
    assert model.read_text() == text
    return result


def test_a_servo_s_gains_and_limits_are_those_of_the_model(tmp_path: Path) -> None:
    result = drafted(tmp_path, ARM)
    spec = load_robot_task(result.path)[0].policy
    assert [joint.name for joint in spec.joints] == ["shoulder", "elbow", "slide"]
    shoulder, elbow, slide = spec.joints
    assert (shoulder.stiffness, shoulder.damping, shoulder.effort_limit) == (300.0, 20.0, 80.0)
    assert shoulder.position_limits == (-1.5, 1.5)
    # a general actuator with an affine bias and gear 2: the gains at the joint are 4 times larger
    assert (elbow.stiffness, elbow.damping, elbow.effort_limit) == (400.0, 12.0, 60.0)
    # a motor says its effort, not gains
    assert slide.effort_limit == 50.0
    assert [joint.default_position for joint in spec.joints] == [0.3, -0.4, 0.1]
    assert result.guesses["policy.joint_defaults.slide.stiffness"] == "no servo in the model"
    assert "# ? gains: no servo in the model" in result.path.read_text()
    assert not any("elbow" in place for place in result.guesses if "stiffness" in place)
    assert not result.changes


def test_the_robot_is_simulated_as_its_own_servos_hold_it(tmp_path: Path) -> None:
    result = drafted(tmp_path, ARM)
    loaded, model = load_robot_task(result.path)
    plant = make_plant(loaded, model)
    plant.reset(plant.default_pose)
    plant.advance(round(2.0 / loaded.sim.timestep))
    assert max(plant.pose_errors().values()) < 0.05


def test_a_quadruped_stands_at_action_0(tmp_path: Path) -> None:
    result = drafted(tmp_path, DOG)
    assert result.task == "velocity"
    assert result.found.feet == ["fl_calf", "fr_calf", "rl_calf", "rr_calf"]
    assert result.found.imu == "trunk" and not result.found.imu_why
    assert any("floor" in change for change in result.changes)  # the model has none
    loaded, model = load_robot_task(result.path)
    plant = make_plant(loaded, model)
    assert result.found.height is not None
    plant.reset(plant.default_pose, result.found.height.value)
    plant.advance(round(2.0 / loaded.sim.timestep))
    assert plant.base().height > 0.9 * result.found.height.value


def test_many_joints_are_few_lines(tmp_path: Path) -> None:
    result = drafted(tmp_path, DOG)
    assert len(result.path.read_text().splitlines()) < 100
    assert len(load_robot_task(result.path)[0].policy.joints) == 12


def test_only_some_joints_are_moved_and_the_others_held(tmp_path: Path) -> None:
    result = drafted(tmp_path, ARM, only="shoulder|elbow", task="none")
    loaded, _ = load_robot_task(result.path)
    assert [joint.name for joint in loaded.policy.joints] == ["shoulder", "elbow"]
    assert loaded.policy.held_joints == {"slide": 0.1}
    assert list(loaded.sim.hold) == ["slide"]
    with pytest.raises(InputError, match="matches one of shoulder, elbow, slide"):
        drafted(tmp_path, ARM, only="wrist", force=True)
    with pytest.raises(InputError, match="regular expression"):
        drafted(tmp_path, ARM, only="(", force=True)


def test_a_gripper_on_a_tendon_is_held_and_its_follower_free(tmp_path: Path) -> None:
    result = drafted(tmp_path, GRIPPER)
    loaded, _ = load_robot_task(result.path)
    assert [joint.name for joint in loaded.policy.joints] == ["lift"]
    assert loaded.policy.held_joints == {"left_finger": 0.02}
    assert loaded.sim.free == ("right_finger",)
    assert loaded.sim.hold["left_finger"].stiffness == pytest.approx(100 * 0.5 * 1.0)


@pytest.mark.parametrize("task", ["reach", "joint-tracking", "none"])
def test_an_arm_s_tasks(task: str, tmp_path: Path) -> None:
    result = drafted(tmp_path, ARM, task=task)
    loaded, _ = load_robot_task(result.path)
    assert (loaded.task is None) == (task == "none")
    if task == "reach":  # a site is added, in a copy of the model
        assert mujoco.MjModel.from_xml_path(str(result.model)).site("end_effector").id == 0
        assert (tmp_path / "out.xml").is_file()


def test_a_task_that_the_robot_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"moves freely.*fixed to the world"):
        drafted(tmp_path, ARM, task="velocity")
    assert list(tmp_path.iterdir()) == [tmp_path / "bot.xml"]


def test_urdf_floats_and_keeps_its_limits(tmp_path: Path) -> None:
    result = drafted(tmp_path, DOG_URDF, "dog.urdf")
    loaded, model = load_robot_task(result.path)
    assert model == tmp_path / "out.xml"
    assert result.found.free_base == "trunk" and result.task == "velocity"
    speeds = {joint.name: joint.velocity_limit for joint in loaded.robot.joints}
    assert speeds["fl_hip"] == 21.0 and speeds["fl_knee"] == 15.0  # MuJoCo drops them
    efforts = {joint.name: joint.effort_limit for joint in loaded.policy.joints}
    assert efforts["fl_hip"] == 25.0 and efforts["fl_knee"] == 40.0
    built = mujoco.MjModel.from_xml_path(str(model))
    assert built.joint("fl_hip").armature[0] == pytest.approx(0.01)
    assert any("armature" in guess for guess in result.model_guesses)
    assert any("missing" in change and "shell.stl" in change for change in result.changes)
    plant = make_plant(loaded, model)
    assert result.found.height is not None
    plant.reset(plant.default_pose, result.found.height.value)
    plant.advance(round(2.0 / loaded.sim.timestep))
    assert plant.base().height > 0.9 * result.found.height.value


def test_a_urdf_arm_is_fixed_and_a_mimic_joint_follows(tmp_path: Path) -> None:
    result = drafted(tmp_path, arm_urdf(), "arm.urdf")
    loaded, model = load_robot_task(result.path)
    assert result.found.free_base is None
    assert any("single chain" in guess for guess in result.model_guesses)
    assert [joint.name for joint in loaded.policy.joints] == ["j1", "j2"]
    assert loaded.sim.free == ("follower",)
    plant = make_plant(loaded, model)
    plant.reset({"j1": 0.4, "j2": 0.0})
    plant.advance(200)
    follower, leader = plant.positions(["follower", "j2"])
    assert follower == pytest.approx(-0.5 * leader + 0.1, abs=0.02)
    floating = drafted(tmp_path, arm_urdf(), "arm.urdf", base="floating", task="none", force=True)
    assert floating.found.free_base == "base"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('mimic joint="j2"', 'mimic joint="j9"'), "mimic of a joint of the robot"),
        (('mimic joint="j2"', 'mimic joint="follower"'), "loop of joints"),
        (('velocity="2"', 'velocity="fast"'), "joint j1: expected a number as velocity"),
        (("<collision>", '<collision><geometry><mesh filename="package://a/b.stl"/></geometry>'
          "</collision><collision>"), "link base: expected a mesh to collide.*no such file"),
        (("<robot", "<!DOCTYPE robot><robot"), "document type"),
        (("</robot>", ""), "cannot load it"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_urdf_file(
    change: tuple[str, str], message: str, tmp_path: Path
) -> None:
    text = arm_urdf()
    assert change[0] in text
    with pytest.raises(InputError, match=message) as error:
        drafted(tmp_path, text.replace(*change, 1), "arm.urdf")
    assert "\n" not in str(error.value)


def test_meshes_of_packages_are_found_beside_and_above(tmp_path: Path) -> None:
    package = tmp_path / "my_arm"
    (package / "urdf").mkdir(parents=True)
    (package / "meshes").mkdir()
    (package / "meshes" / "box.obj").write_text(BOX)
    text = arm_urdf().replace(
        "<collision>",
        '<visual><geometry><mesh filename="package://my_arm/meshes/box.obj"/></geometry></visual>'
        "<collision>",
        1,
    )
    (package / "urdf" / "arm.urdf").write_text(text)
    (tmp_path / "elsewhere").mkdir()
    output = tmp_path / "elsewhere" / "arm.yaml"
    result = draft(DraftRequest(str(package / "urdf" / "arm.urdf"), output=output))
    assert mujoco.MjModel.from_xml_path(str(result.model)).nmesh == 1
    assert 'file="../my_arm/meshes/box.obj"' in result.model.read_text()


def test_a_package_may_be_checked_out_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "arm" / "urdf").mkdir(parents=True)
    (tmp_path / "arm" / "box.obj").write_text(BOX)
    mesh = '<collision><geometry><mesh filename="package://its_name/box.obj"/></geometry>'
    text = arm_urdf().replace("<collision>", f"{mesh}</collision><collision>", 1)
    (tmp_path / "arm" / "urdf" / "arm.urdf").write_text(text)
    result = draft(
        DraftRequest(str(tmp_path / "arm" / "urdf" / "arm.urdf"), output=tmp_path / "out.yaml")
    )
    assert mujoco.MjModel.from_xml_path(str(result.model)).nmesh == 1


def test_links_that_are_only_frames_may_have_an_impossible_inertia(tmp_path: Path) -> None:
    dummy = (
        '<inertial><mass value="1e-6"/><inertia ixx="1e-6" ixy="1e-6" ixz="1e-6" iyy="1e-6"'
        ' iyz="1e-6" izz="1e-6"/></inertial>'
    )
    frames = "".join(
        f'<link name="{name}">{inertial}</link><joint name="to_{name}" type="fixed">'
        f'<parent link="lower"/><child link="{name}"/><origin xyz="0 0 {z}"/></joint>'
        for name, z, inertial in (
            ("tool", 0.3, dummy),
            ("camera", 0.1, dummy.replace("1e-6", "0")),
            ("mark", 0.0, ""),
        )
    )
    plugin = "<gazebo><plugin><link>base</link></plugin></gazebo>"
    text = arm_urdf().replace("</robot>", f"{frames}{plugin}</robot>")
    result = drafted(tmp_path, text, "arm.urdf", task="reach")
    assert result.found.end.body == "tool"
    assert len(load_robot_task(result.path)[0].policy.joints) == 2


def test_wheels_are_no_feet(tmp_path: Path) -> None:
    wheels = "".join(
        f'<body pos="{x} 0 -0.1"><joint name="wheel{i}" axis="0 1 0" armature="0.01"/>'
        f'<geom type="sphere" size="0.05" mass="1"/></body>'
        for i, x in enumerate((-0.2, 0.2))
    )
    motors = "".join(f'<motor joint="wheel{i}" ctrlrange="-5 5"/>' for i in range(2))
    result = drafted(
        tmp_path,
        '<mujoco><worldbody><body name="cart" pos="0 0 0.2"><freejoint/>'
        f'<geom type="box" size="0.3 0.2 0.05" mass="5"/>{wheels}</body></worldbody>'
        f"<actuator>{motors}</actuator></mujoco>",
    )
    assert result.task == "none"


def test_a_missing_visual_mesh_is_left_out_and_a_colliding_one_refused(tmp_path: Path) -> None:
    mesh = '<mesh name="shell" file="shell.stl"/>'
    asset = ARM.replace("<worldbody>", f"<asset>{mesh}</asset><worldbody>")
    visual = '<geom type="mesh" mesh="shell" contype="0" conaffinity="0" mass="0"/>'
    inertial = '<inertial pos="0 0 0.2" mass="2" diaginertia="0.02 0.02 0.02"/>'
    text = asset.replace('<joint name="shoulder"', f'{inertial}{visual}<joint name="shoulder"')
    result = drafted(tmp_path, text)
    assert any("shell.stl" in change for change in result.changes)
    collides = text.replace('contype="0" conaffinity="0" mass="0"', "")
    with pytest.raises(InputError, match=r"shell\.stl, which is needed to collide"):
        drafted(tmp_path, collides, force=True)


def test_a_model_of_menagerie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    robot = tmp_path / "menagerie" / "a_dog"
    robot.mkdir(parents=True)
    (robot / "dog.xml").write_text(DOG)
    floor = '<worldbody><geom name="ground" type="plane" size="0 0 1"/></worldbody>'
    (robot / "scene.xml").write_text(f'<mujoco><include file="dog.xml"/>{floor}</mujoco>')
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path / "menagerie"))
    monkeypatch.chdir(tmp_path)
    assert config.main(["new", "menagerie:a_dog"]) == 0
    assert load_robot_task(tmp_path / "a_dog.yaml")[1].resolve() == robot / "scene.xml"
    assert config.main(["new", "menagerie:a_dog/dog", "--name", "two"]) == 0
    assert (tmp_path / "two.xml").is_file()
    for name, message in (
        ("menagerie:a_cat", "one of a_dog"),
        ("menagerie:a_dog/cat", "out of dog, scene"),
        ("menagerie:../a_dog", "menagerie:NAME"),
    ):
        with pytest.raises(InputError, match=message):
            config.main(["new", name])
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="one of none"):
        config.main(["new", "menagerie:a_dog"])


def test_existing_files_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, output = tmp_path / "arm.xml", tmp_path / "arm.yaml"
    model.write_text(ARM)
    output.write_text("mine")
    command = ["new", str(model), "--output", str(output)]
    with pytest.raises(InputError, match="--force replaces it"):
        config.main(command)
    assert output.read_text() == "mine"
    assert config.main([*command, "--force"]) == 0
    out = capsys.readouterr().out
    for word in ("wrote", "known", "guessed", "next", "config check", "dime_robot.train"):
        assert word in out
    # a copy of the model gets another name than the model itself
    assert config.main([*command, "--force", "--task", "reach"]) == 0
    assert model.read_text() == ARM
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"arm.xml", "arm.yaml", "arm_sim.xml"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('range="-1.5 1.5"', 'range="-90 90"'), r"joint shoulder: expected stops of up to 12\.5"),
        (('<joint name="shoulder" axis="0 1 0" range="-1.5 1.5"/>', '<joint name="shoulder"'
          ' type="ball"/>'), "cannot load it|ball joint"),
        (("<actuator>", "<actuator><!--"), "cannot load it"),
        (('forcerange="-80 80"', 'forcerange="-1 1"'), "shoulder: expected at most 0.05 rad"),
    ],
)  # fmt: skip
def test_why_there_is_no_configuration(
    change: tuple[str, str], message: str, tmp_path: Path
) -> None:
    assert change[0] in ARM
    with pytest.raises(InputError, match=message) as error:
        drafted(tmp_path, ARM.replace(*change, 1))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [tmp_path / "bot.xml"]


BOX = """v 0 0 0
v 1 0 0
v 0 1 0
v 0 0 1
f 1 3 2
f 1 2 4
f 1 4 3
f 2 3 4
"""


@st.composite
def models(draw: st.DrawFn) -> str:
    """A small robot: a tree of a few joints with actuators of any kind, or none."""
    inner, actuators, names = "", "", 0

    def number(low: float, high: float) -> str:
        return f"{draw(st.floats(low, high)):.4f}"

    for limb in range(draw(st.integers(1, 3))):
        tail = ""
        for link in range(draw(st.integers(1, 3))):
            names += 1
            kind = draw(st.sampled_from(["hinge", "hinge", "hinge", "slide", "ball"]))
            axis = draw(st.sampled_from(["1 0 0", "0 1 0", "0 0 1"]))
            stops = draw(st.sampled_from(["", 'range="-1.2 1.3"', 'range="0.2 0.9"']))
            extra = f'axis="{axis}" {stops}' if kind != "ball" else ""
            named = f'name="j{limb}_{link}"' if draw(st.booleans()) or kind == "ball" else ""
            joint = (
                f'<joint {named} type="{kind}" {extra} damping="{number(0, 1)}"'
                f' armature="{number(0, 0.05)}"/>'
            )
            shape = draw(st.sampled_from(["sphere", "box", "capsule", "cylinder", "ellipsoid"]))
            size = {"sphere": "0.03", "box": "0.03 0.02 0.04"}.get(shape, "0.03 0.05 0.02")
            tail = (
                f'<body pos="{number(-0.2, 0.2)} {number(-0.2, 0.2)} -0.15">{joint}'
                f'<geom type="{shape}" size="{size}" mass="{number(0.05, 2)}"/>{tail}</body>'
            )
            if named and kind != "ball":
                target = f'joint="j{limb}_{link}"'
                actuators += draw(
                    st.sampled_from(
                        [
                            "",
                            f'<motor {target} ctrlrange="-20 20"/>',
                            f"<motor {target}/>",
                            f'<position {target} kp="{number(1, 500)}" kv="{number(0, 20)}"/>',
                            f'<position {target} kp="50" dampratio="1" forcerange="-9 9"/>',
                            f'<velocity {target} kv="{number(0.1, 20)}"/>',
                            f'<general {target} gear="3" gainprm="30" biastype="affine"'
                            ' biasprm="0 -30 -1"/>',
                            f'<intvelocity {target} kp="30" actrange="-1 1"/>',
                        ]
                    )
                )
        inner += tail
    free = draw(st.sampled_from(["", "<freejoint/>"]))
    body = draw(st.sampled_from(['name="trunk"', ""]))
    floor = draw(st.sampled_from(["", '<geom type="plane" size="0 0 1"/>']))
    return (
        f'<mujoco><compiler angle="radian"/><worldbody>{floor}<body {body}'
        f' pos="0 0 {number(0, 1)}">{free}'
        f'<geom type="box" size="0.1 0.1 0.05" mass="3"/>{inner}</body></worldbody>'
        f"<actuator>{actuators}</actuator></mujoco>"
    )


# a chain with nearly no inertia at its ends: with random actions the simulation diverges
DIVERGING = (
    '<mujoco><compiler angle="radian"/><worldbody><geom type="plane" size="0 0 1"/>'
    '<body name="trunk" pos="0 0 0.1423"><geom type="box" size="0.1 0.1 0.05" mass="3"/>'
    '<body pos="0.0000 0.0000 -0.15">'
    '<joint name="j0_2" type="hinge" axis="1 0 0"/>'
    '<geom type="capsule" size="0.03 0.05 0.02" mass="1.0000"/>'
    '<body pos="0.0000 0.0000 -0.15">'
    '<joint name="j0_1" type="ball"/>'
    '<geom type="sphere" size="0.03" mass="0.1108"/><body pos="0.0000 0.0000 -0.15">'
    '<joint  type="hinge" axis="1 0 0"/>'
    '<geom type="sphere" size="0.03" mass="1.3711"/></body></body></body>'
    '<body pos="0.0000 0.0000 -0.15">'
    '<joint  type="hinge" axis="1 0 0"/>'
    '<geom type="sphere" size="0.03" mass="0.0500"/><body pos="0.0000 0.0000 -0.15">'
    '<joint  type="hinge" axis="1 0 0"/>'
    '<geom type="sphere" size="0.03" mass="0.0500"/><body pos="0.0000 0.0000 -0.15">'
    '<joint  type="hinge" axis="0 1 0"/>'
    '<geom type="sphere" size="0.03" mass="1.0372"/></body></body></body>'
    '<body pos="0.0000 0.0000 -0.15">'
    '<joint  type="hinge" axis="1 0 0" range="0.2 0.9" damping="0.0000" armature="0.0000"/>'
    '<geom type="sphere" size="0.03" mass="0.8480"/></body></body></worldbody><actuator>'
    "</actuator></mujoco>"
)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(text=DIVERGING, task=None)
@given(text=models(), task=st.sampled_from([None, "reach", "joint-tracking", "velocity", "none"]))
def test_any_small_model_is_drafted_or_refused_in_one_sentence(
    text: str, task: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("draft")
    refused = ""
    try:
        drafted(folder, text, task=task)
    except InputError as error:
        refused = str(error)
    files = {file.name for file in folder.iterdir()}
    assert "\n" not in refused
    assert files == {"bot.xml"} if refused else {"bot.xml", "out.yaml"} <= files
    assert files <= {"bot.xml", "out.yaml", "out.xml"}
