"""Fast DDS with its default settings kills a Cyclone DDS 0.10.2 process, which a Go2 is said to be.

It does so as soon as an endpoint of LowCmd or LowState matches, when the two exchange descriptions
of the type. One property prevents this; these tests show that the property is needed, that it is
sufficient, and that the two then understand each other.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.ros_nodes.cyclone_peer import build as builder
from tests.ros_nodes.cyclone_peer.build import build, cyclone_version
from tests.ros_nodes.cyclone_peer.peer import TIMEOUT, CyclonePeer
from tests.ros_nodes.graph import domain
from tests.ros_nodes.unitree_messages.build import CannotBuildError

VECTORS = ROOT / "tests/data/unitree_crc_vectors.json"
PUBLISHER = Path(__file__).with_name("low_cmd_publisher.py")
PROPERTY = """
        <propertiesPolicy><properties><property>
          <name>fastdds.type_propagation</name><value>disabled</value>
        </property></properties></propertiesPolicy>"""
PROFILE = """<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns="http://www.eprosima.com">
  <profiles>
    <transport_descriptors>
      <transport_descriptor>
        <transport_id>{name}</transport_id>
        <type>UDPv4</type>
        <maxInitialPeersRange>32</maxInitialPeersRange>
        <interfaceWhiteList><address>127.0.0.1</address></interfaceWhiteList>
      </transport_descriptor>
    </transport_descriptors>
    <participant profile_name="{name}" is_default_profile="true">
      <rtps>{properties}
        <userTransports><transport_id>{name}</transport_id></userTransports>
        <useBuiltinTransports>false</useBuiltinTransports>
        <builtin><initialPeersList>
          <locator><udpv4><address>127.0.0.1</address></udpv4></locator>
        </initialPeersList></builtin>
      </rtps>
    </participant>
  </profiles>
</dds>
"""


@contextmanager
def publisher(
    folder: Path, messages: Path, number: int, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """low_cmd_publisher in a domain, in a folder, with the folder's profile.xml."""
    given = {
        **os.environ,
        "PYTHONPATH": str(messages),
        "ROS_DOMAIN_ID": str(number),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",  # LOCALHOST adds transports to the profile's
        "FASTDDS_DEFAULT_PROFILES_FILE": str(folder / "profile.xml"),
        **environment,
    }
    process = subprocess.Popen(
        [sys.executable, str(PUBLISHER), str(VECTORS), "500"],
        cwd=folder,
        env=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate()


@pytest.mark.slow
def test_with_the_property_the_peer_lives_and_both_sides_receive_every_field(
    cyclone_peer: Path, unitree_messages: Path, tmp_path: Path
) -> None:
    (tmp_path / "profile.xml").write_text(PROFILE.format(name="robot", properties=PROPERTY))
    # Fast DDS also reads this file, unless told not to, and its default profile would replace ours
    other = tmp_path / "DEFAULT_FASTDDS_PROFILES.xml"
    other.write_text(PROFILE.format(name="other", properties=""))
    with domain() as number:
        peer = CyclonePeer(cyclone_peer, number, state_rate=500.0)
        try:
            skip = {"SKIP_DEFAULT_XML_FILE": "1"}
            with publisher(tmp_path, unitree_messages, number, **skip) as process:
                out, errors = process.communicate(timeout=4 * TIMEOUT)
            assert process.returncode == 0, errors
            report = peer.stop()
        finally:
            peer.close()
    ours = json.loads(out)
    assert ours["states"] > 50
    assert ours["crc_right"]
    assert report["received"] > 250  # of 500, best effort
    assert report["bad_crc"] == 0
    assert report["writers"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("where", ["no property", "another file in the working folder"])
def test_without_the_property_the_peer_dies(
    where: str, cyclone_peer: Path, unitree_messages: Path, tmp_path: Path
) -> None:
    if (version := cyclone_version()) != "0.10.2":
        pytest.skip(f"this is known of Cyclone DDS 0.10.2, and here is {version}")
    properties = PROPERTY if where != "no property" else ""
    (tmp_path / "profile.xml").write_text(PROFILE.format(name="robot", properties=properties))
    if properties:
        other = tmp_path / "DEFAULT_FASTDDS_PROFILES.xml"
        other.write_text(PROFILE.format(name="other", properties=""))
    with domain() as number:
        peer = CyclonePeer(cyclone_peer, number, state_rate=500.0)
        try:
            with publisher(tmp_path, unitree_messages, number):
                assert peer.process.wait(TIMEOUT) == -signal.SIGSEGV
        finally:
            peer.close()


def test_the_vectors_are_what_the_c_implementation_gives(
    cyclone_peer: Path, tmp_path: Path
) -> None:
    done = subprocess.run([build("crc_vectors", tmp_path)], capture_output=True, text=True)
    assert done.stdout == VECTORS.read_text()


def test_another_implementation_gives_the_vectors() -> None:
    vectors = json.loads(VECTORS.read_text())["vectors"]
    assert len(vectors) >= 10
    reversed_bits = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))
    for vector in vectors:
        *words, last = struct.unpack("<203I", bytes.fromhex(vector["struct"]))
        raw = struct.pack(f">{len(words)}I", *words).translate(reversed_bits)
        crc = int(f"{zlib.crc32(raw) ^ 0xFFFFFFFF:032b}"[::-1], 2)
        assert crc == vector["crc"] == last, vector["name"]


@pytest.mark.parametrize("missing", ["gcc", "idlc"])
def test_what_is_missing_is_one_sentence(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder.shutil, "which", lambda name: None if name == missing else name)
    with pytest.raises(CannotBuildError, match=f"needs {missing}: apt-get install"):
        build("peer", tmp_path)
