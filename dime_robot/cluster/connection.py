"""The connection to a Ray cluster, or to one of this machine alone that ends with the program.

Whoever may call Ray runs code on every node. A cluster that this module starts listens on this
machine's loopback interface only, and every call needs a token that no other user can read, where
Ray knows tokens (2.60 does). Ray does not encrypt what it sends: a cluster of several machines
belongs in a trusted network.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

from dime_robot.runtime.io.errors import InputError, in_one_line
from dime_robot.runtime.io.extras import require_extras

LOOPBACK = "127.0.0.1"
# before Ray is imported: nothing is reported to its makers, and a worker sees the GPUs it asked for
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
# the same, for a cluster of this machine alone: what Ray does by itself only on other systems,
# where it takes the loopback address for the machine's and listens nowhere else
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}


def ray_module() -> ModuleType:
    """Import Ray, or end the process with exit code 2 and an install command."""
    require_extras(ray=("ray",))
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    return ray


def own_version() -> str:
    """Return the version of this package in this process; all nodes need the same one."""
    # by its name: the package's own module refers to all others, which this one must not
    version: str = import_module(__name__.partition(".")[0]).__version__
    return version


@contextmanager
def connected(address: str | None, cpus: int = 0) -> Iterator[ModuleType]:
    """Connect to a cluster while this context is active; it gives the module `ray`.

    Args:
        address: host:port of a cluster's head, or `auto` for one that runs on this machine; none:
            that of the environment variable RAY_ADDRESS, or else a new one of this machine alone,
            which ends here.
        cpus: places for workers that a new cluster has at least; it has as many as the machine has
            cores, if these are more.

    Raises:
        InputError: nothing answers at the address, or a new cluster would listen to other machines.
    """
    wanted = address or os.environ.get("RAY_ADDRESS")
    with _environment({} if wanted else _of_this_machine()):
        ray = ray_module()
        if ray.is_initialized():  # by the program that called us: it is also theirs to end
            yield ray
            return
        with _own_signal_handlers():
            _connect(ray, wanted, cpus)
        try:
            yield ray
        finally:
            ray.shutdown()


def _connect(ray: ModuleType, address: str | None, cpus: int) -> None:
    # that calls need a token is no news for a user
    quiet = logging.getLogger("ray._private.authentication.authentication_token_setup")
    quiet.addFilter(lambda record: "is enabled" not in record.getMessage())
    try:
        if address is not None:
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
            return
        ray.init(
            address="local",
            num_cpus=max(cpus, len(os.sched_getaffinity(0))),
            include_dashboard=False,
            logging_level=logging.WARNING,
            log_to_driver=False,
            _node_ip_address=LOOPBACK,
        )
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise InputError(
            f"--ray {address or ''}: expected a Ray cluster to answer, got: {in_one_line(error)};"
            " start one (ray start --head), or leave out the address for one of this machine"
        ) from None
    if (listens := ray.util.get_node_ip_address()) != LOOPBACK:
        ray.shutdown()
        raise InputError(
            f"--ray: expected Ray {ray.__version__} to listen on {LOOPBACK} alone, got {listens},"
            " where other machines could run code here; import nothing of Ray before, or start a"
            " cluster yourself (ray start --head) and give its address"
        )


def _of_this_machine() -> dict[str, str]:
    """Return the variables of a new cluster of this machine alone and of its processes."""
    return {
        **_ALONE,
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # a file of Ray's would be readable by all users
        # its processes find the modules that this one does
        "PYTHONPATH": os.pathsep.join(str(Path(folder).resolve()) for folder in sys.path),
    }


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables while this context is active."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep this program's handlers, in whose place Ray puts its own."""
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in handlers.items():
            if handler is not None:
                signal.signal(each, handler)
