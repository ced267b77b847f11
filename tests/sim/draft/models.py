"""Small robots of the tests' own, as MJCF and as URDF."""

from __future__ import annotations

# an arm with a position servo, a general actuator with a gear, and a motor; its pose is a keyframe
ARM = """
<mujoco model="arm">
  <compiler angle="radian"/>
  <option timestep="0.004"/>
  <worldbody>
    <body name="base" pos="0 0 0.5">
      <geom type="box" size="0.1 0.1 0.05"/>
      <body name="upper" pos="0 0 0.05">
        <joint name="shoulder" axis="0 1 0" range="-1.5 1.5"/>
        <geom type="capsule" fromto="0 0 0 0 0 0.3" size="0.03" mass="2"/>
        <body name="lower" pos="0 0 0.35">
          <joint name="elbow" axis="0 1 0" range="-2 2" armature="0.05"/>
          <geom type="capsule" fromto="0 0 0 0 0 0.2" size="0.02" mass="1"/>
          <body name="hand" pos="0 0 0.25">
            <joint name="slide" type="slide" axis="0 0 1" range="0 0.2" armature="0.1"/>
            <geom type="sphere" size="0.02" mass="0.3"/>
          </body>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>
    <position joint="shoulder" kp="300" kv="20" forcerange="-80 80"/>
    <general joint="elbow" gear="2" gainprm="100" biastype="affine" biasprm="0 -100 -3"
             forcerange="-30 40"/>
    <motor joint="slide" gear="10" ctrlrange="-5 5"/>
  </actuator>
  <keyframe>
    <key name="away" qpos="0 0 0"/>
    <key name="home" qpos="0.3 -0.4 0.1"/>
  </keyframe>
</mujoco>
"""

# two fingers on one tendon; one follows the other
GRIPPER = """
<mujoco model="gripper">
  <compiler angle="radian"/>
  <worldbody>
    <body name="base">
      <geom type="box" size="0.05 0.05 0.05" pos="0 0 1"/>
      <body name="wrist" pos="0 0 1">
        <joint name="lift" axis="0 1 0" range="-1 1" armature="0.02"/>
        <geom type="capsule" fromto="0 0 0 0 0 -0.2" size="0.02" mass="0.5"/>
        <body name="left" pos="0 0.02 -0.25">
          <joint name="left_finger" type="slide" axis="0 1 0" range="0 0.04" armature="0.1"/>
          <geom type="box" size="0.01 0.005 0.02" mass="0.05"/>
        </body>
        <body name="right" pos="0 -0.02 -0.25">
          <joint name="right_finger" type="slide" axis="0 -1 0" range="0 0.04" armature="0.1"/>
          <geom type="box" size="0.01 0.005 0.02" mass="0.05"/>
        </body>
      </body>
    </body>
  </worldbody>
  <tendon>
    <fixed name="split">
      <joint joint="left_finger" coef="0.5"/>
      <joint joint="right_finger" coef="0.5"/>
    </fixed>
  </tendon>
  <equality><joint joint1="right_finger" joint2="left_finger"/></equality>
  <actuator>
    <position joint="lift" kp="60" kv="3" forcerange="-20 20"/>
    <general tendon="split" gainprm="1" biastype="affine" biasprm="0 -100 -10"
             forcerange="-50 50" ctrlrange="0 255"/>
  </actuator>
  <keyframe><key name="home" qpos="0.2 0.02 0.02"/></keyframe>
</mujoco>
"""

LEGS = {"fl": (0.2, 0.1), "fr": (0.2, -0.1), "rl": (-0.2, 0.1), "rr": (-0.2, -0.1)}


def _leg(name: str, x: float, y: float) -> str:
    return f"""
      <body name="{name}_hip" pos="{x} {y} 0">
        <joint name="{name}_hip_joint" axis="1 0 0" range="-0.8 0.8"/>
        <geom type="sphere" size="0.03" mass="0.5" contype="0" conaffinity="0"/>
        <body name="{name}_thigh">
          <joint name="{name}_thigh_joint" axis="0 1 0" range="-1 3"/>
          <geom type="capsule" fromto="0 0 0 0 0 -0.2" size="0.015" mass="0.6"/>
          <body name="{name}_calf" pos="0 0 -0.2">
            <joint name="{name}_calf_joint" axis="0 1 0" range="-2.7 -0.3"/>
            <geom type="capsule" fromto="0 0 0 0 0 -0.2" size="0.012" mass="0.2"/>
            <geom type="sphere" size="0.02" pos="0 0 -0.2" mass="0.05"/>
          </body>
        </body>
      </body>"""


# a quadruped that stands in its keyframe, without a floor
DOG = f"""
<mujoco model="dog">
  <compiler angle="radian"/>
  <default>
    <joint armature="0.01" damping="0.1"/>
    <position kp="120" dampratio="1" forcerange="-30 30"/>
  </default>
  <worldbody>
    <body name="trunk" pos="0 0 0.4">
      <freejoint/>
      <geom type="box" size="0.25 0.1 0.05" mass="8"/>
      <site name="imu"/>{"".join(_leg(name, *at) for name, at in LEGS.items())}
    </body>
  </worldbody>
  <actuator>{
    "".join(
        f'<position name="{leg}_{part}" joint="{leg}_{part}_joint"/>'
        for leg in LEGS
        for part in ("hip", "thigh", "calf")
    )
}</actuator>
  <sensor><gyro site="imu"/></sensor>
  <keyframe>
    <key name="home" qpos="0 0 0.27 1 0 0 0 {"0 0.9 -1.8 " * 4}"/>
  </keyframe>
</mujoco>
"""


def _inertial(mass: float, z: float = 0.0) -> str:
    return (
        f'<inertial><origin xyz="0 0 {z}"/><mass value="{mass}"/><inertia ixx="0.003" iyy="0.003"'
        ' izz="0.002" ixy="0" ixz="0" iyz="0"/></inertial>'
    )


def _urdf_leg(name: str, x: float, y: float) -> str:
    def joint(part: str, parent: str, z: float, axis: str, limit: str) -> str:
        at = f"{x} {y} {z}" if parent == "trunk" else f"0 0 {z}"
        return (
            f'<joint name="{name}_{part}" type="revolute"><parent link="{parent}"/>'
            f'<child link="{name}_{part}_link"/><origin xyz="{at}"/><axis xyz="{axis}"/>'
            f"<limit {limit}/></joint>"
        )

    ball = '<collision><geometry><sphere radius="0.02"/></geometry></collision>'
    return f"""
  <link name="{name}_hip_link">{_inertial(0.5)}</link>
  <link name="{name}_thigh_link">{_inertial(0.6, -0.1)}</link>
  <link name="{name}_knee_link">{_inertial(0.2, -0.1)}</link>
  <link name="{name}_foot">{ball}</link>
  {joint("hip", "trunk", 0, "1 0 0", 'lower="-.8" upper=".8" effort="25" velocity="21"')}
  {joint("thigh", f"{name}_hip_link", 0, "0 1 0", 'lower="-1" upper="3" effort="25" velocity="21"')}
  {
        joint(
            "knee",
            f"{name}_thigh_link",
            -0.2,
            "0 1 0",
            'lower="-2.6" upper="-0.2" effort="40" velocity="15"',
        )
    }
  <joint name="{name}_ankle" type="fixed"><parent link="{name}_knee_link"/>
    <child link="{name}_foot"/><origin xyz="0 0 -0.2"/></joint>"""


DOG_URDF = f"""<?xml version="1.0"?>
<robot name="dog">
  <link name="trunk">{_inertial(8)}
    <visual><geometry><mesh filename="package://dog/meshes/shell.stl"/></geometry></visual>
    <collision><geometry><box size="0.5 0.2 0.1"/></geometry></collision>
  </link>{"".join(_urdf_leg(name, *at) for name, at in LEGS.items())}
</robot>
"""


def arm_urdf() -> str:
    """An arm of two joints and one that follows the second."""

    def joint(name: str, parent: str, child: str, kind: str, more: str) -> str:
        return (
            f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>'
            f'<origin xyz="0 0 0.25"/><axis xyz="0 1 0"/>{more}</joint>'
        )

    block = '<collision><geometry><box size="0.1 0.1 0.1"/></geometry></collision>'
    limit = '<limit lower="-1.5" upper="1.5" effort="40" velocity="2"/>'
    mimic = '<mimic joint="j2" multiplier="-0.5" offset="0.1"/>'
    return f"""<robot name="arm">
  <link name="base">{_inertial(2)}{block}</link>
  <link name="upper">{_inertial(1, 0.1)}</link>
  <link name="lower">{_inertial(0.5, 0.1)}</link>
  <link name="tip">{_inertial(0.05)}</link>
  {joint("j1", "base", "upper", "revolute", limit)}
  {joint("j2", "upper", "lower", "revolute", limit.replace('"2"', '"3"'))}
  {joint("follower", "lower", "tip", "revolute", limit + mimic)}
</robot>
"""
