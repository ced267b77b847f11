"""BringUp: takes the motors of a Go2 from its own controller and gives them back.

The robot's service `motion_switcher` says which of its controllers has the motors, releases and
starts it; the service `sport` lets that controller lie down first (unitree_sdk2_python,
unitree_sdk2py/comm/motion_switcher and go2/sport). Requests and responses are JSON texts with an
id. Nothing but the question which controller runs is asked without the operator's request.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Final, NamedTuple

SWITCHER: Final = "motion_switcher"
SPORT: Final = "sport"
CHECK_MODE, SELECT_MODE, RELEASE_MODE = 1001, 1002, 1003
STAND_DOWN = 1005
CHECK_TIME, ACTION_TIME = 2.0, 10.0  # [s] to wait for a response to a question and to a request
CHECK_PERIOD = 1.0  # [s] between two questions which controller has the motors
LIE_TIME = 5.0  # [s] that lying down takes at most
SETTLE_TIME = 1.0  # [s] after a release or a start, before it is verified
LAST_COMMAND_TIME = 0.1  # [s] for the last LowCmd to arrive before a controller is started
MAX_RELEASES = 3
MAX_NAME = 40  # letters of a controller's name


class Request(NamedTuple):
    """A request to a service of the robot."""

    service: str
    id: int
    api: int
    parameter: str


class Response(NamedTuple):
    """A service's response."""

    service: str
    id: int
    api: int
    code: int
    data: str


class Outcome(NamedTuple):
    """How an operator's request ended."""

    success: bool
    text: str


class _Step(Enum):
    IDLE = "idle"
    CHECK = "check"  # before a release
    LIE = "lie"
    RELEASE = "release"
    VERIFY_RELEASE = "verify release"
    SELECT = "select"
    VERIFY_SELECT = "verify select"


class BringUp:
    """Sends one request at a time and waits for its response. All times are steady [s].

    Args:
        first_id: of the requests; other programs' ids should differ.
    """

    def __init__(self, first_id: int) -> None:
        self.mode: str | None = None  # the controller that has the motors; empty: none; None: ?
        self.released_mode = ""  # the one that was released here
        self.silent = False  # the last request had no response
        self._id = first_id
        self._step = _Step.IDLE
        self._pending: Request | None = None
        self._due = -1e9  # [s] of the next request
        self._until = 0.0  # [s] for the pending response
        self._releases = 0
        self._selected = ""
        self._outcome: Outcome | None = None

    @property
    def busy(self) -> bool:
        """Whether an operator's request is being worked on."""
        return self._step is not _Step.IDLE

    def begin_release(self, now: float) -> None:
        """Lie down, release and verify; `take_outcome` says how it ended.

        Args:
            now: steady time [s].
        """
        self._releases = 0
        self._go(_Step.CHECK, now)

    def begin_restore(self, mode: str, now: float) -> None:
        """Start one of the robot's controllers and verify; `take_outcome` says how it ended.

        Args:
            mode: its name.
            now: steady time [s].
        """
        self._selected = mode
        self._go(_Step.SELECT, now, LAST_COMMAND_TIME)

    def _go(self, step: _Step, now: float, after: float = 0.0) -> None:
        self._step, self._due, self._pending = step, now + after, None

    def take_outcome(self) -> Outcome | None:
        """Return once how the operator's request ended; None: it has not, or there was none."""
        outcome, self._outcome = self._outcome, None
        return outcome

    def poll(self, now: float, at_rest: bool) -> Request | None:
        """Return a request that is due; None: there is none.

        Args:
            now: steady time [s].
            at_rest: whether the robot lies still.
        """
        if self._pending is not None:
            if now < self._until:
                return None
            self.silent = True
            request, self._pending = self._pending, None
            self._due = now + CHECK_PERIOD
            if self.busy:
                self._no_response(request, now)
            else:
                self.mode = None
            return None
        if self._step is _Step.LIE:  # its request was answered: wait until the robot lies
            if not (at_rest or now >= self._until):
                return None
            if now < self._due:
                return None
            if not at_rest:
                self._end(False, f"the robot did not lie still within {LIE_TIME:g} s; not released")
                return None
            self._go(_Step.RELEASE, now)
        if now < self._due:
            return None
        return self._send(now)

    def _send(self, now: float) -> Request:
        api, service, parameter = CHECK_MODE, SWITCHER, "{}"
        if self._step is _Step.RELEASE:
            api = RELEASE_MODE
        elif self._step is _Step.SELECT:
            api, parameter = SELECT_MODE, json.dumps({"name": self._selected})
        return self._ask(Request(service, self._id + 1, api, parameter), now)

    def _ask(self, request: Request, now: float) -> Request:
        self._id = request.id
        self._pending, self._until = request, now + _answer_time(request)
        return request

    def _no_response(self, request: Request, now: float) -> None:
        """Go on without a response: what was requested may have been done."""
        if self._step is _Step.RELEASE:
            self._releases += 1
            self._go(_Step.VERIFY_RELEASE, now)
        elif self._step is _Step.SELECT:
            self._go(_Step.VERIFY_SELECT, now)
        else:
            self._end(
                False,
                f"{request.service} did not answer request {request.api} within"
                f" {_answer_time(request):g} s: is the robot on this interface and domain?",
            )

    def take(self, response: Response, now: float) -> Request | None:
        """Take a response; those to other programs are ignored.

        Args:
            response: of any service.
            now: steady time [s].

        Returns:
            A request that follows at once; None: there is none.
        """
        pending = self._pending
        if pending is None or response[:3] != pending[:3]:
            return None
        self._pending, self.silent = None, False
        self._due = now + CHECK_PERIOD
        mode = ""
        if response.code == 0 and pending.api == CHECK_MODE:
            found = _mode_of(response.data)
            if found is None:
                self._fail_or_forget(f"{SWITCHER} answered {response.data!r:.100}, expected a name")
                return None
            self.mode = mode = found
        elif response.code != 0 and pending.api == CHECK_MODE:
            self._fail_or_forget(f"{SWITCHER} answered with code {response.code}")
            return None
        return self._advance(response, mode, now)

    def _fail_or_forget(self, text: str) -> None:
        self.mode = None
        if self.busy:
            self._end(False, text)

    def _advance(self, response: Response, mode: str, now: float) -> Request | None:
        """Go to the next step of the operator's request."""
        if self._step in (_Step.CHECK, _Step.VERIFY_RELEASE):
            if not mode:
                name = f"{self.released_mode} is released" if self._releases else "none was active"
                self._end(True, f"the robot's own controller: {name}; the motors are free")
                return None
            if self._releases >= MAX_RELEASES:
                self._end(False, f"{mode} still has the motors after {MAX_RELEASES} releases")
                return None
            self.released_mode = mode
            self._step = _Step.LIE
            return self._ask(Request(SPORT, self._id + 1, STAND_DOWN, "{}"), now)
        if self._step is _Step.LIE:
            if response.code != 0:
                self._end(False, f"{SPORT} refused to lie down, code {response.code}; not released")
                return None
            self._due, self._until = now + SETTLE_TIME, now + LIE_TIME
        elif self._step is _Step.RELEASE:
            self._releases += 1
            self._go(_Step.VERIFY_RELEASE, now, SETTLE_TIME)
        elif self._step is _Step.SELECT:
            if response.code != 0:
                text = f"{SWITCHER} refused to start {self._selected}, code {response.code}"
                self._end(False, text)
                return None
            self._go(_Step.VERIFY_SELECT, now, SETTLE_TIME)
        elif self._step is _Step.VERIFY_SELECT:
            done = mode == self._selected
            self._end(done, f"the robot's own controller: {mode or 'none'}")
        return None

    def _end(self, success: bool, text: str) -> None:
        self._step, self._outcome = _Step.IDLE, Outcome(success, text)


def _answer_time(request: Request) -> float:
    """Return how long a service may take to answer [s]."""
    return CHECK_TIME if request.api == CHECK_MODE else ACTION_TIME


def _mode_of(data: str) -> str | None:
    """Return the name in the response to CHECK_MODE; None: it has none."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    name = content.get("name") if isinstance(content, dict) else None
    return name[:MAX_NAME] if isinstance(name, str) else None
