"""The requests of one load: due time, send time, time and outcome of the response.

Times are nanoseconds of the monotonic clock. A request is known by its sequence number, from 0 on.
"""

from array import array
from dataclasses import dataclass

import numpy as np

NOT_OFFERED, IN_CLIENT, SENT, SUCCESS, REFUSED, TIMED_OUT, BROKEN, EXPIRED, WRONG, ERROR = range(10)
"""Outcomes. IN_CLIENT: due, but not sent. REFUSED: the server does not serve it. TIMED_OUT: the server reports that the
deadline has passed. BROKEN: the server admitted it and then reported that it will be late. EXPIRED: its deadline passed
in the client, before a connection was free. WRONG: a success with a wrong output. ERROR: the rest."""

MAX_ANSWERS = 256
"""Limit of different correct responses that are kept for each template; a batch may change the last bits."""

MAX_REASONS = 20
"""Different reasons of errors that are counted."""

TOLERANCE = 1e-3
"""Relative difference between a correct response and the output of bare ONNX Runtime."""


@dataclass
class Template:
    """A request that is sent many times: a model's name, the name of its input, the input, and the right output."""

    model: str
    input: str
    array: np.ndarray
    expected: np.ndarray


def check_distinct(templates: list[Template]) -> None:
    """Raise SystemExit if two templates have the same output: a mix-up would not be noticed."""
    for at, one in enumerate(templates):
        for other in templates[:at]:
            if np.allclose(one.expected, other.expected, rtol=10 * TOLERANCE, atol=0):
                raise SystemExit(f"templates of {one.model} and {other.model} have the same output; change a seed")


class Ledger:
    """The requests of one load.

    ``size`` is the limit of requests. ``slo`` counts from the moment when a request is due. ``allowance`` is the part
    of it that the client keeps for the network. ``kinds`` has the template of each request, repeated.
    """

    def __init__(self, size: int, templates: list[Template], kinds: bytes, slo: int, allowance: int) -> None:
        self.size = size
        self.templates = templates
        self.slo = slo
        self.allowance = allowance
        self.due = array("q", bytes(8 * size))
        self.behind = array("q", bytes(8 * size))  #: time from `due` until the generator took the request up
        self.answered = array("q", bytes(8 * size))
        self.outcome = bytearray(size)
        self.open = 0  #: requests taken up and not finished
        self.double = 0  #: second responses to a request
        self.unknown = 0  #: responses to requests that were never sent
        self.reasons: dict[str, int] = {}  #: of errors
        self.kind = (kinds * (size // len(kinds) + 1))[:size]
        self.answer_bytes = [template.expected.nbytes for template in templates]
        self._right = [{template.expected.tobytes()} for template in templates]

    def offer(self, begin: int, end: int, now: int) -> None:
        """Take up the requests ``begin`` to ``end``."""
        for seq in range(begin, end):
            self.behind[seq] = now - self.due[seq]
            self.outcome[seq] = IN_CLIENT
        self.open += end - begin

    def stated(self, seq: int, now: int) -> int:
        """The SLO that the client states if the request leaves now: the time left, less the allowance."""
        return self.due[seq] + self.slo - self.allowance - now

    def succeed(self, seq: int, answer: bytes, now: int) -> None:
        """Note a success with these bytes of output."""
        if 0 <= seq < self.size:
            kind = self.kind[seq]
            right = answer in self._right[kind] or self._check(kind, answer)
            self.finish(seq, SUCCESS if right else WRONG, now)
        else:
            self.unknown += 1

    def finish(self, seq: int, outcome: int, now: int) -> None:
        """End a request; a second response is only counted."""
        if not 0 <= seq < self.size or not self.outcome[seq]:
            self.unknown += 1
        elif self.outcome[seq] > SENT:
            self.double += 1
        else:
            self.outcome[seq] = outcome
            self.answered[seq] = now
            self.open -= 1

    def fail(self, seq: int, reason: str, now: int) -> None:
        """End a request with an error; reasons are counted."""
        if reason in self.reasons or len(self.reasons) < MAX_REASONS:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
        self.finish(seq, ERROR, now)

    def _check(self, kind: int, answer: bytes) -> bool:
        expected = self.templates[kind].expected
        if len(answer) != expected.nbytes:
            return False
        found = np.frombuffer(answer, expected.dtype).reshape(expected.shape)
        right = bool(np.allclose(found, expected, rtol=TOLERANCE, atol=1e-6))
        if right and len(self._right[kind]) < MAX_ANSWERS:
            self._right[kind].add(bytes(answer))
        return right

    def arrays(self, begin: int, end: int) -> "Columns":
        """Copies, as numpy arrays, of the requests ``begin`` to ``end``."""
        due, behind, answered = (
            np.array(column[begin:end], np.int64) for column in (self.due, self.behind, self.answered)
        )
        return Columns(due, behind, answered, np.frombuffer(bytes(self.outcome[begin:end]), np.uint8), self.slo)


@dataclass
class Columns:
    """Some requests of a ledger; times in nanoseconds."""

    due: np.ndarray
    behind: np.ndarray
    answered: np.ndarray
    outcome: np.ndarray
    slo: int

    def count(self, *outcomes: int) -> int:
        """Number of requests with one of these outcomes."""
        return int(np.isin(self.outcome, outcomes).sum())

    def ms(self, *outcomes: int) -> list[float]:
        """Latencies from the due time, in ms, of requests with one of these outcomes."""
        chosen = np.isin(self.outcome, outcomes)
        return list((self.answered[chosen] - self.due[chosen]) / 1e6)

    def in_time(self) -> np.ndarray:
        """Which requests succeeded within the SLO."""
        chosen: np.ndarray = (self.outcome == SUCCESS) & (self.answered - self.due <= self.slo)
        return chosen

    def late(self) -> int:
        """Number of successes after the SLO."""
        return self.count(SUCCESS) - int(self.in_time().sum())

    def behind_ms(self) -> list[float]:
        """Lateness of the generator for each request that it offered."""
        return list(self.behind[self.outcome != NOT_OFFERED] / 1e6)
