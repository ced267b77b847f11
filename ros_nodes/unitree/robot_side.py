"""RobotSide: what unitree_driver reads and sends on the robot's domain."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any

from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.utilities import get_rmw_implementation_identifier

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.unitree.bring_up import SPORT, SWITCHER, Request, Response
from dime_robot.runtime.unitree.low_level import LOW_STATE_LAYOUT, read_message
from ros_nodes.conversions import COMMAND_QOS
from ros_nodes.topic_watch import GID_BYTES
from ros_nodes.unitree import messages

NODE = "_unitree_driver_{}"  # hidden from `ros2 node list` on the robot's domain
NAME_BITS = 32  # of its random part: another driver's writer is another writer
RIVAL_TIME = 0.5  # [s] within which readings of two robots are refused
MIDDLEWARE = "rmw_fastrtps_cpp"
MAX_TAKEN = 50  # messages of a topic at once
# the robot's writer may be reliable or best effort; the newest readings count
READ_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.BEST_EFFORT
)
SERVICE_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE
)


class RobotSide:
    """The only participant of this machine on the robot's domain.

    It has no executor: its messages are taken by hand, at fixed times.

    Args:
        domain: of the robot.
        check_crc: whether a LowState with a wrong checksum is refused.
        dry_run: subscribe to LowState, and nothing else.
        other_middleware: whether another one than Fast DDS is permitted.

    Raises:
        InputError: Unitree's messages are missing, or another middleware.
    """

    def __init__(self, domain: int, check_crc: bool, dry_run: bool, other_middleware: bool) -> None:
        found = get_rmw_implementation_identifier()
        if found != MIDDLEWARE and not other_middleware:
            raise InputError(
                f"expected the middleware {MIDDLEWARE}, which this driver was tried with, got"
                f" {found}: export RMW_IMPLEMENTATION={MIDDLEWARE}, or -p"
                " allow_other_middleware:=true"
            )
        messages.require_known_layout()
        self._check_crc = check_crc
        self._context = Context()
        self._context.init([], domain_id=domain)
        self._name = NODE.format(f"{secrets.randbits(NAME_BITS):08x}")
        self.node = Node(
            self._name,
            context=self._context,
            use_global_arguments=False,
            start_parameter_services=False,
            enable_rosout=False,
        )
        create = self.node.create_subscription
        self._states = create(messages.low_state_type(), "lowstate", _ignore, READ_QOS)
        self._commands: Any = None
        self._responses: dict[str, Any] = {}
        self._requests: dict[str, Any] = {}
        self._publisher: Any = None
        self._own: set[bytes] = set()
        self._robots: dict[bytes, float] = {}  # writer of LowState -> when it sent last [s]
        self._found = False
        if dry_run:
            return
        kind = messages.low_cmd_type()
        self._publisher = self.node.create_publisher(kind, "lowcmd", COMMAND_QOS)
        self._commands = create(kind, "lowcmd", _ignore, READ_QOS)

    def open_services(self) -> None:
        """Begin to talk to the robot's services.

        Raises:
            InputError: unitree_api is missing.
        """
        request, response = messages.request_type(), messages.response_type()
        for service in (SWITCHER, SPORT):
            topic = f"api/{service}"
            self._requests[service] = self.node.create_publisher(
                request, f"{topic}/request", SERVICE_QOS
            )
            self._responses[service] = self.node.create_subscription(
                response, f"{topic}/response", _ignore, SERVICE_QOS
            )

    def finds_services(self) -> bool:
        """Whether the robot's services can be asked; once they were found, they stay so."""
        if not self._found:
            self._found = all(
                publisher.get_subscription_count()
                and self._responses[service].get_publisher_count()
                for service, publisher in self._requests.items()
            )
        return self._found

    def states(self) -> Iterator[Any]:
        """Yield the LowState messages that have arrived: a record, or why it is refused."""
        now = time.monotonic()
        for data, gid in _take(self._states, raw=True):
            self._robots[gid] = now
            if len(self._robots) > 1:
                self._robots = {g: at for g, at in self._robots.items() if now - at < RIVAL_TIME}
            if len(self._robots) > 1:
                yield f"{len(self._robots)} robots send LowState in this domain: leave one"
            else:
                yield self._read(data)

    def _read(self, data: bytes) -> Any:
        try:
            return read_message(LOW_STATE_LAYOUT, data, self._check_crc)
        except InputError as error:
            return str(error)

    def other_writers(self) -> set[str]:
        """Return who else has sent LowCmd since the last call."""
        if self._commands is None:
            return set()
        found = {bytes(gid) for _, gid in _take(self._commands, raw=True) if gid}
        if not found - self._own:
            return set()
        infos = self.node.get_publishers_info_by_topic("lowcmd")
        named = {bytes(info.endpoint_gid)[:GID_BYTES]: info for info in infos}
        self._own |= {gid for gid, info in named.items() if info.node_name == self._name}
        others = found - self._own
        return {
            f"{named[gid].node_name} ({gid.hex()})" if gid in named else gid.hex() for gid in others
        }

    def send(self, data: bytes) -> None:
        """Send a serialized LowCmd."""
        self._publisher.publish(data)

    def send_request(self, request: Request) -> None:
        """Send a request to one of the robot's services."""
        message = messages.request_type()()
        message.header.identity.id = request.id
        message.header.identity.api_id = request.api
        message.parameter = request.parameter
        self._requests[request.service].publish(message)

    def responses(self) -> Iterator[Response]:
        """Yield the responses that have arrived."""
        for service, subscription in self._responses.items():
            for message, _ in _take(subscription, raw=False):
                identity = message.header.identity
                code = message.header.status.code
                yield Response(service, identity.id, identity.api_id, code, message.data)

    def close(self) -> None:
        """Leave the robot's domain."""
        self.node.destroy_node()
        self._context.try_shutdown()


def _ignore(_: Any) -> None:
    """Do nothing: no executor calls it."""


def _take(subscription: Any, raw: bool) -> Iterator[tuple[Any, bytes]]:
    """Yield messages with their publishers' ids."""
    for _ in range(MAX_TAKEN):
        with subscription.handle:
            taken = subscription.handle.take_message(subscription.msg_type, raw)
        if taken is None:
            return
        gid = taken[1].get("publisher_gid")
        yield taken[0], b"" if gid is None else bytes(gid["data"])[:GID_BYTES]
