"""The Fast DDS profile of a process on the robot's domain.

The profile switches off that types are announced: Fast DDS 3 otherwise crashes a peer with Cyclone
DDS 0.10.2, which a Go2 is said to run, as soon as a topic of theirs matches, even one that is only
read. And it binds the process to the robot's network interface. Fast DDS reads one profile for a
process, before its first participant exists.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import re
import shutil
import socket
import struct
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from xml.etree import ElementTree

from dime_robot.runtime.io.errors import InputError

PROPERTY, SAFE_VALUES = "fastdds.type_propagation", ("disabled", "registration_only")
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
DEFAULT_FILE = "DEFAULT_FASTDDS_PROFILES.xml"  # which Fast DDS reads in the current folder
MAX_SIZE = 1_000_000  # bytes of a profile
SIOCGIFADDR = 0x8915  # the IPv4 address of an interface
# what could give the robot's side other transports, peers or a discovery server
OTHER_VARIABLES = (
    "FASTDDS_BUILTIN_TRANSPORTS",
    "ROS2_EASY_MODE",
    "FASTDDS_ENVIRONMENT_FILE",
    "ROS_DISCOVERY_SERVER",
    "ROS_STATIC_PEERS",
    "ROS_SUPER_CLIENT",
    "RMW_FASTRTPS_USE_QOS_FROM_XML",
)
# a security enclave replaces the list of properties
SECURITY_VARIABLES = (
    "ROS_SECURITY_ENABLE",
    "ROS_SECURITY_KEYSTORE",
    "ROS_SECURITY_ENCLAVE_OVERRIDE",
)
_PROFILE = """<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns="http://www.eprosima.com">
  <profiles>
    <transport_descriptors>
      <transport_descriptor>
        <transport_id>dime_robot_wire</transport_id>
        <type>UDPv4</type>
        <interfaceWhiteList><address>{address}</address></interfaceWhiteList>
        <maxInitialPeersRange>32</maxInitialPeersRange>
      </transport_descriptor>
    </transport_descriptors>
    <participant profile_name="dime_robot_wire" is_default_profile="true">
      <rtps>
        <propertiesPolicy><properties>
          <property><name>{property}</name><value>disabled</value></property>
        </properties></propertiesPolicy>
        <userTransports><transport_id>dime_robot_wire</transport_id></userTransports>
        <useBuiltinTransports>false</useBuiltinTransports>
        <builtin>{deaf}
          <initialPeersList>{peers}</initialPeersList>
        </builtin>
      </rtps>
    </participant>
  </profiles>
</dds>
"""
# With a list of its own, no multicast is listened to. Linux delivers multicast of any interface to
# a socket that is bound to the group, so a participant on another network would be heard as well;
# the robot hears this process's announcements and responds to its address.
_DEAF = """
          <metatrafficUnicastLocatorList><locator>
            <udpv4><address>{address}</address></udpv4>
          </locator></metatrafficUnicastLocatorList>"""
_PEER = "<locator><udpv4><address>{address}</address></udpv4></locator>"
MULTICAST = "239.255.0.1"  # of DDS's discovery


def address_of(interface: str) -> str:
    """Return the IPv4 address of a network interface.

    Args:
        interface: its name, such as eth0, or its address.

    Raises:
        InputError: there is no such interface here, or it has no IPv4 address.
    """
    names = [name for _, name in socket.if_nameindex()]
    found = {name: address for name in names if (address := _ipv4(name))}
    if interface in found:
        return found[interface]
    if interface in found.values():
        return interface
    loopback = interface.count(".") == 3 and _is_loopback(interface)
    if loopback:
        return interface
    given = f"got {interface!r}" if interface else "got none"
    listed = ", ".join(f"{name} ({address})" for name, address in found.items()) or "none"
    raise InputError(
        f"parameter interface: expected the network interface to the robot, {given}: -p"
        f" interface:=NAME; those with an IPv4 address are {listed}",
        code="parameter",
    )


def _is_loopback(text: str) -> bool:
    try:
        return ipaddress.IPv4Address(text).is_loopback
    except ValueError:
        return False


def _ipv4(name: str) -> str:
    """Return the IPv4 address of an interface; empty: it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("256s", name.encode()[:15])
        try:
            response = fcntl.ioctl(any_socket.fileno(), SIOCGIFADDR, request)
        except OSError:
            return ""
    return socket.inet_ntoa(response[20:24])


def require_safe_profiles(environment: Mapping[str, str], folder: Path) -> None:
    """Refuse profiles of the user that would crash a Go2 when a tool of this shell joins it.

    This driver does not use them for the robot's domain; `ros2 topic echo` from the same shell
    would.

    Args:
        environment: of the process.
        folder: the current one.

    Raises:
        InputError: a profile without the property, or that cannot be read.
    """
    named = [Path(environment[name]) for name in PROFILE_VARIABLES if environment.get(name)]
    here = [folder / DEFAULT_FILE] if (folder / DEFAULT_FILE).exists() else []
    for path in [*named, *here]:
        problem = profile_problem(path)
        if problem:
            raise InputError(
                f"{path}: expected the participant property {PROPERTY} = disabled in this profile"
                f" of Fast DDS, {problem}: add it (see docs/go2.md), or start without the profile;"
                " without it a participant on the robot's domain can crash the robot"
            )


def profile_problem(path: Path) -> str:
    """Return why a profile is not safe on a robot's domain, as a phrase; empty: it is.

    Args:
        path: of the XML file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SIZE + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        return f"got a file that cannot be read ({getattr(error, 'strerror', None) or error})"
    if len(content) > MAX_SIZE or re.search(r"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        return f"got more than {MAX_SIZE:,} bytes, or a document type"
    try:
        builder = ElementTree.TreeBuilder(insert_comments=True)  # a text ends where one begins
        root = ElementTree.fromstring(text, ElementTree.XMLParser(target=builder))
    except ElementTree.ParseError as error:
        return f"got no XML ({error})"
    participants = [each for each in root.iter() if _tag(each) == "participant"]
    if not any(each.get("is_default_profile") == "true" for each in participants):
        return 'got no participant with is_default_profile="true", so that others have no profile'
    for participant in participants:
        values = [_text(entry, "value") for entry in _properties(participant)]
        if not values or not set(values) <= set(SAFE_VALUES):
            name = participant.get("profile_name", "without a name")
            return f"got {repr(values[0]) if values else 'none'} in the participant {name!r:.100}"
    return ""


def _properties(participant: ElementTree.Element) -> list[ElementTree.Element]:
    """Return the entries of the property, where Fast DDS reads them and spelled as it does."""
    found = [participant]
    for tag in ("rtps", "propertiesPolicy", "properties", "property"):
        found = [inner for outer in found for inner in outer if _tag(inner) == tag]
    return [entry for entry in found if _text(entry, "name") == PROPERTY]


def _tag(element: ElementTree.Element) -> str:
    """Return an element's name without its namespace."""
    return str(element.tag).rpartition("}")[2]


def _text(element: ElementTree.Element, tag: str) -> str:
    """Return the text of the first element inside, spaces included."""
    return next((inner.text or "" for inner in element if _tag(inner) == tag), "")


class RobotProfile:
    """The profile's file, and the environment in which Fast DDS reads it.

    Args:
        address: IPv4 address of the interface to the robot.
        hears_all: listen to announcements by multicast, as a robot does.
    """

    def __init__(self, address: str, hears_all: bool = False) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="dime_robot_dds_"))
        self.path = self._folder / "robot.xml"
        # a loopback interface has no multicast; others on this computer do not hear ours
        addresses = [address] if _is_loopback(address) else [MULTICAST, address]
        peers = "".join(_PEER.format(address=each) for each in addresses)
        deaf = "" if hears_all else _DEAF.format(address=address)
        text = _PROFILE.format(address=address, property=PROPERTY, peers=peers, deaf=deaf)
        self.path.write_text(text)

    def apply(self, environment: MutableMapping[str, str]) -> None:
        """Set the variables; before the process's first participant exists.

        Args:
            environment: of the process.
        """
        for name in (*PROFILE_VARIABLES, *OTHER_VARIABLES, *SECURITY_VARIABLES):
            environment.pop(name, None)
        environment[PROFILE_VARIABLES[0]] = str(self.path)
        environment["SKIP_DEFAULT_XML_FILE"] = "1"
        environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SUBNET"  # LOCALHOST adds all interfaces

    def remove(self) -> None:
        """Remove the file, once Fast DDS has read it."""
        shutil.rmtree(self._folder, ignore_errors=True)


def use_robot_profile(interface: str, hears_all: bool = False) -> RobotProfile:
    """Write the profile and make this process use it.

    Args:
        interface: to the robot, its name or address.
        hears_all: listen to announcements by multicast, as a robot does.

    Returns:
        The profile; remove it once the first node exists.

    Raises:
        InputError: no such interface.
    """
    profile = RobotProfile(address_of(interface), hears_all)
    profile.apply(os.environ)
    return profile
