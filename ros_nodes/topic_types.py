"""Find nodes that use another message type on one of this node's topics: DDS never matches them."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.topic_endpoint_info import TopicEndpointInfo

TWISTS = ("geometry_msgs/msg/Twist", "geometry_msgs/msg/TwistStamped")


def type_name(kind: type) -> str:
    """Return the name of a message class in the graph, as geometry_msgs/msg/Twist."""
    return f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"


def type_mismatches(node: Node, topic: str, expected: type, section: str = "") -> list[str]:
    """Return a sentence for each endpoint of a topic with another type; equal sentences once.

    Args:
        node: its namespace and remaps apply; its own endpoints are checked too.
        topic: as the node publishes or subscribes to it.
        expected: the message class that the robot's file requires.
        section: of the robot's file that states the type, as `robot.command`; empty: none does.
    """
    ours = type_name(expected)
    name = node.resolve_topic_name(topic)
    found = [
        _sentence(endpoint, verb, name, ours, section)
        for verb, endpoints in (
            ("publishes on", node.get_publishers_info_by_topic(topic)),
            ("listens on", node.get_subscriptions_info_by_topic(topic)),
        )
        for endpoint in endpoints
        if endpoint.topic_type != ours
    ]
    return list(dict.fromkeys(found))


def _sentence(endpoint: TopicEndpointInfo, verb: str, topic: str, ours: str, section: str) -> str:
    owner = f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"
    theirs = endpoint.topic_type
    word = "with" if verb == "publishes on" else "for"
    sentence = f"{owner} {verb} {topic} {word} {theirs}"
    if not section:
        return f"{sentence}, expected {ours}: remap one of the two"
    sentence += f", this robot's file says {ours}"
    if theirs in TWISTS and ours in TWISTS:
        return f"{sentence}: set {section}.type: {theirs.rpartition('/')[2]}"
    return f"{sentence}: correct {section}.topic, or remap it"
