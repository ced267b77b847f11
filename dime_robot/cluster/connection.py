"""The connection to a Ray cluster, or to one of this machine alone that ends with the program.

Ray's ports have no authentication: whoever reaches them runs code on every node. A cluster that
this module starts listens on this machine only; one of several machines belongs in a trusted
network.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from dime_robot.runtime.io.errors import InputError, in_one_line
from dime_robot.runtime.io.extras import require_extras

LOOPBACK = "127.0.0.1"
# before Ray is imported: nothing is reported to its makers, and a worker sees the GPUs it asked for
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def ray_module() -> ModuleType:
    """Import Ray, or end the process with exit code 2 and an install command."""
    require_extras(ray=("ray",))
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    return ray


@contextmanager
def connected(address: str | None) -> Iterator[ModuleType]:
    """Connect to a cluster while this context is active; it gives the module `ray`.

    Args:
        address: host:port of a cluster's head, or `auto` for one that runs on this machine; none:
            that of the environment variable RAY_ADDRESS, or else a new one of this machine alone,
            which ends here.

    Raises:
        InputError: nothing answers at the address.
    """
    ray = ray_module()
    if ray.is_initialized():  # by the program that called us: it is also theirs to end
        yield ray
        return
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    wanted = address or os.environ.get("RAY_ADDRESS")
    try:
        if wanted is None:
            ray.init(
                address="local",
                include_dashboard=False,
                logging_level=logging.WARNING,
                log_to_driver=False,
                _node_ip_address=LOOPBACK,
            )
        else:
            ray.init(address=wanted, logging_level=logging.WARNING, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise InputError(
            f"--ray {wanted or ''}: expected a Ray cluster to answer, got: {in_one_line(error)};"
            " start one (ray start --head), or leave out the address for one of this machine"
        ) from None
    finally:
        for each, handler in handlers.items():  # Ray puts its own in their place
            if handler is not None:
                signal.signal(each, handler)
    try:
        yield ray
    finally:
        ray.shutdown()
