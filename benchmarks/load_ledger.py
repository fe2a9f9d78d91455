"""Records the requests of one load: when each was due, when it was answered, and its outcome.

Times are in nanoseconds of the monotonic clock. Each request has a sequence number, which begins at 0.
"""

from array import array
from dataclasses import dataclass

import numpy as np

NOT_OFFERED, IN_CLIENT, SENT, SUCCESS, REFUSED, TIMED_OUT, BROKEN, EXPIRED, WRONG, ERROR = range(10)
"""The outcomes that a request can have.

- NOT_OFFERED: the generator was too late to send the request.
- IN_CLIENT: the request is due but has not been sent.
- SENT: the request has been sent and has no response.
- SUCCESS: the response has the right output.
- REFUSED: the server refused the request.
- TIMED_OUT: the server reported that the deadline has passed.
- BROKEN: the server admitted the request, and then reported that it will be late.
- EXPIRED: the deadline passed in the client before a connection was free.
- WRONG: the response has a wrong output.
- ERROR: any other outcome.
"""

MAX_ANSWERS = 256
"""Largest number of different correct outputs that are kept for a template. Batches may change the last bits."""

MAX_REASONS = 20
"""Largest number of different reasons of errors that are counted."""

TOLERANCE = 1e-3
"""Largest relative difference between a correct output and the output of bare ONNX Runtime."""


@dataclass
class Template:
    """A request that is sent many times.

    A template has a model, the name of an input, the input, and the expected output.
    """

    model: str
    input: str
    array: np.ndarray
    expected: np.ndarray


def check_distinct(templates: list[Template]) -> None:
    """Check that all templates have different outputs. Otherwise a mix-up of responses would not be noticed.

    Raises:
        SystemExit: two templates have the same output.
    """
    for at, one in enumerate(templates):
        for other in templates[:at]:
            if np.allclose(one.expected, other.expected, rtol=10 * TOLERANCE, atol=0):
                raise SystemExit(f"templates of {one.model} and {other.model} have the same output; change a seed")


class Ledger:
    """The requests of one load.

    ``size`` is the largest number of requests. ``slo`` counts from the due time of a request. ``allowance`` is the part
    of the SLO that the client reserves for the network. ``kinds`` contains the template of each request, and is
    repeated.
    """

    def __init__(self, size: int, templates: list[Template], kinds: bytes, slo: int, allowance: int) -> None:
        self.size = size
        self.templates = templates
        self.slo = slo
        self.allowance = allowance
        self.due = array("q", bytes(8 * size))
        self.behind = array("q", bytes(8 * size))  #: time from `due` until the generator handled the request
        self.answered = array("q", bytes(8 * size))
        self.outcome = bytearray(size)
        self.open = 0  #: number of requests that are due and not finished
        self.double = 0  #: number of second responses to a request
        self.unknown = 0  #: number of responses to requests that were never sent
        self.reasons: dict[str, int] = {}  #: number of errors for each reason
        self.kind = (kinds * (size // len(kinds) + 1))[:size]
        self.answer_bytes = [template.expected.nbytes for template in templates]
        self._right = [{template.expected.tobytes()} for template in templates]

    def offer(self, begin: int, end: int, now: int) -> None:
        """Record that the requests from ``begin`` up to ``end`` are due now."""
        for seq in range(begin, end):
            self.behind[seq] = now - self.due[seq]
            self.outcome[seq] = IN_CLIENT
        self.open += end - begin

    def stated(self, seq: int, now: int) -> int:
        """Return the SLO of a request that is sent now: the remaining time minus the allowance."""
        return self.due[seq] + self.slo - self.allowance - now

    def succeed(self, seq: int, answer: bytes, now: int) -> None:
        """Record a success. ``answer`` contains the bytes of the output."""
        if 0 <= seq < self.size:
            kind = self.kind[seq]
            right = answer in self._right[kind] or self._check(kind, answer)
            self.finish(seq, SUCCESS if right else WRONG, now)
        else:
            self.unknown += 1

    def finish(self, seq: int, outcome: int, now: int) -> None:
        """End a request with an outcome. A second response is only counted."""
        if not 0 <= seq < self.size or not self.outcome[seq]:
            self.unknown += 1
        elif self.outcome[seq] > SENT:
            self.double += 1
        else:
            self.outcome[seq] = outcome
            self.answered[seq] = now
            self.open -= 1

    def fail(self, seq: int, reason: str, now: int) -> None:
        """End a request with an error, and count the reason."""
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
        """Return copies of the requests from ``begin`` up to ``end`` as numpy arrays."""
        due, behind, answered = (
            np.array(column[begin:end], np.int64) for column in (self.due, self.behind, self.answered)
        )
        return Columns(due, behind, answered, np.frombuffer(bytes(self.outcome[begin:end]), np.uint8), self.slo)


@dataclass
class Columns:
    """Some requests of a ledger as numpy arrays. Times are in nanoseconds."""

    due: np.ndarray
    behind: np.ndarray
    answered: np.ndarray
    outcome: np.ndarray
    slo: int

    def count(self, *outcomes: int) -> int:
        """Return the number of requests with one of these outcomes."""
        return int(np.isin(self.outcome, outcomes).sum())

    def ms(self, *outcomes: int) -> list[float]:
        """Return the latencies in ms, from the due time, of requests with one of these outcomes."""
        chosen = np.isin(self.outcome, outcomes)
        return list((self.answered[chosen] - self.due[chosen]) / 1e6)

    def in_time(self) -> np.ndarray:
        """Return, for each request, whether it succeeded within the SLO."""
        chosen: np.ndarray = (self.outcome == SUCCESS) & (self.answered - self.due <= self.slo)
        return chosen

    def late(self) -> int:
        """Return the number of successes after the SLO."""
        return self.count(SUCCESS) - int(self.in_time().sum())

    def behind_ms(self) -> list[float]:
        """Return the lateness of the generator in ms, for each request that it offered."""
        return list(self.behind[self.outcome != NOT_OFFERED] / 1e6)
