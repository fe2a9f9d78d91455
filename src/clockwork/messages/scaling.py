"""Describes how many devices of each kind the server wants, and why. An autoscaler of the fleet reads this description.

All work is in device-seconds per second. Work of 2.5 keeps two and a half devices busy.
"""

from msgspec import Struct

from clockwork.messages.results import DEFAULT_VERSION


class KindScaling(Struct, frozen=True):
    """The number of devices of one kind that the server wants.

    - ``devices``: number of devices in service
    - ``wanted``: number of devices that the server wants
    - ``why``: the reason for ``wanted``, as a sentence
    - ``needed``: number of devices that the work of the last seconds needs, without damping
    - ``execution``: work of the requests that arrived recently, including refused requests that more devices would have
      served
    - ``refused``: part of ``execution`` that was refused or late
    - ``loading``: work of loading weights, including loads for requests that were refused because of their weights
    - ``target``: share of its time for which a device should be busy
    - ``held_s``: seconds for which an earlier peak still keeps ``wanted`` above the present need
    """

    kind: str
    devices: int
    wanted: int
    why: str
    needed: float = 0.0
    execution: float = 0.0
    refused: float = 0.0
    loading: float = 0.0
    target: float = 0.0
    held_s: float = 0.0


class ModelWork(Struct, frozen=True):
    """The recent work of one version of a model on one kind of device.

    - ``rate``: rows that arrived per second
    - ``refused``: part of ``rate`` that was refused or late, and that more devices would have served
    - ``row_ms``: time of a device for each row, in batches of the size that the rate and the SLO allow
    - ``work``: device-seconds per second
    """

    model: str
    kind: str
    rate: float
    refused: float
    row_ms: float
    work: float
    version: str = DEFAULT_VERSION
