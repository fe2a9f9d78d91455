"""All that a worker has of one device, and the way of a batch through it.

Theory of operation. Four streams: LOAD copies weights, INPUT inputs, EXEC computes, OUTPUT copies outputs; events order
them, so that copies of one batch run while another is computed. Only EXEC is waited for by the thread that plans by it.

Measured are, by the device's clock, the moments before and after what EXEC does for a batch. The times that a result
has as begin and end stay the host's: what is planned is the lane, which also launches, and is told. Both durations are
in the result, so nothing has to be translated from one clock to the other.
"""

from collections.abc import Callable
from threading import Lock, RLock

from msgspec import Struct

from clockwork.arrays import Array
from clockwork.errors import DeviceLostError
from clockwork.messages.results import DeviceTime
from clockwork.runtimes.torch.cuda.driver import Address, Driver
from clockwork.runtimes.torch.cuda.executor import Executor
from clockwork.runtimes.torch.cuda.pages import PageCache
from clockwork.runtimes.torch.cuda.staging import Lease, Staging
from clockwork.runtimes.torch.tensors import to_array
from clockwork.runtimes.torch.weights import Layout
from clockwork.units import Bytes, Nanos


class Staged(Struct, frozen=True, eq=False):
    """A batch of inputs on their way to the device. ``rows`` of it are wanted; those after them fill a graph up."""

    lease: Lease
    layout: Layout
    rows: int = 0
    padded: int = 0


class Computed(Struct, frozen=True, eq=False):
    """A batch of outputs on their way to the host."""

    lease: Lease
    layout: Layout
    rows: int = 0
    padded: int = 0


class Device:
    """See the module. Each method may be called by any thread."""

    def __init__(self, number: int, driver: Driver, executor: Executor, cache: PageCache, staging: Staging) -> None:
        self.number = number
        self.driver = driver
        self.executor = executor
        self.cache = cache
        self.staging = staging
        self._loading = Lock()
        self.turn = RLock()  #: held by whoever has work for EXEC: an inference, or a capture
        self._load, self._input, self._output = (driver.make_stream() for _ in range(3))
        self._load_begin, self._load_end = (driver.make_event(sleeping=True) for _ in range(2))

    def copy_weights(self, to: Address, source: Address, nbytes: Bytes) -> Nanos:
        """Copy weights to the device; returns what that took by its clock."""
        driver = self.driver
        with self._loading:
            driver.record(self._load_begin, self._load)
            if nbytes:
                driver.copy_to_device(to, source, nbytes, self._load)
            driver.record(self._load_end, self._load)
            driver.wait(self._load_end)
            return driver.elapsed(self._load_begin, self._load_end)

    def stage(self, layout: Layout, fill: Callable[[list[Array]], None], rows: int = 0, padded: int = 0) -> Staged:
        """Have ``fill`` write inputs into pinned memory, and send them on their way.

        Raises:
            ServerError: they do not fit, or the driver could not.
        """
        driver = self.driver
        driver.attach()
        self.staging.check_fits(layout.nbytes, "inputs")
        lease = self.staging.take_input()
        slot = lease.slot
        fill([to_array(it) for it in layout.tensors(slot.host)])
        driver.copy_to_device(slot.address, slot.host_address, layout.nbytes, self._input)
        driver.record(slot.copied, self._input)
        return Staged(lease, layout, rows, padded)

    def compute(self, staged: Staged, work: Callable[[], Layout]) -> Computed:
        """Execute: ``work`` queues on EXEC what reads the input area, and says where in the output area it writes.

        Returns when the device has done it; the outputs are on their way to the host.

        Raises:
            ServerError: PyTorch, or the driver, could not.
        """
        driver, staging, executor = self.driver, self.staging, self.executor
        driver.attach()
        lease = staging.take_output()
        source, slot = staged.lease.slot, lease.slot
        with self.turn:
            driver.follow(executor.stream, source.copied)
            driver.record(slot.begin, executor.stream)
            driver.copy_on_device(staging.input_area, source.address, staged.layout.nbytes, executor.stream)
            layout = work()
            driver.copy_on_device(slot.address, staging.output_area, layout.nbytes, executor.stream)
            driver.record(slot.end, executor.stream)
            driver.follow(self._output, slot.end)
            driver.copy_to_host(slot.host_address, slot.address, layout.nbytes, self._output)
            driver.record(slot.copied, self._output)
            driver.wait(slot.end)
        return Computed(lease, layout, staged.rows, staged.padded)

    def read(self, computed: Computed) -> list[Array]:
        """The outputs, copied out of the slot: whoever sends them may take longer than a slot can be spared.

        Raises:
            ServerError: the driver could not.
        """
        self.driver.attach()
        self.driver.wait(computed.lease.slot.copied)
        arrays = [to_array(it) for it in computed.layout.tensors(computed.lease.slot.host)]
        if computed.rows != computed.padded:
            arrays = [it[: computed.rows] if it.shape[:1] == (computed.padded,) else it for it in arrays]
        return [it.copy() for it in arrays]

    def time_of(self, computed: Computed) -> DeviceTime:
        """What EXEC took for it, copies on the device included, and the clock of the device about then."""
        self.driver.attach()
        slot = computed.lease.slot
        return DeviceTime(self.driver.elapsed(slot.begin, slot.end), self.driver.clock_mhz())

    def judge(self, error: BaseException) -> None:
        """Something failed: has the device been lost with it?

        Raises:
            DeviceLostError: all that comes would fail as well.
        """
        if isinstance(error, DeviceLostError):
            raise error
        self.driver.attach()
        self.driver.check()

    def close(self) -> None:
        """Give all memory back; nothing is loaded, nothing runs."""
        self.driver.attach()
        self.staging.close()
        self.cache.close()
