"""Manages the resources of a worker on one device, and executes the steps of a batch.

Theory of operation. The device has four streams: LOAD copies weights, INPUT copies inputs, EXEC computes, and OUTPUT
copies outputs. CUDA events order the work of the streams. So the copies of one batch run while another batch is
computed. The EXEC thread waits only for the EXEC stream.

The device's clock measures how long the EXEC stream works on a batch. The start and end in a result are times of the
host's clock, because the controller's plan includes all work of the EXEC thread, such as the launch of kernels. The
result contains two durations, one on each clock, so no conversion between the clocks is needed.
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


class StagedInputs(Struct, frozen=True, eq=False):
    """A batch of inputs that is being copied to the device.

    Only the first ``rows`` of its ``padded`` rows belong to requests.
    """

    lease: Lease
    layout: Layout
    rows: int = 0
    padded: int = 0


class ComputedOutputs(Struct, frozen=True, eq=False):
    """A batch of outputs that is being copied to the host."""

    lease: Lease
    layout: Layout
    rows: int = 0
    padded: int = 0


class Device:
    """One device, with its streams and memory. Any thread may call any method."""

    def __init__(self, number: int, driver: Driver, executor: Executor, cache: PageCache, staging: Staging) -> None:
        self.number = number
        self.driver = driver
        self.executor = executor
        self.cache = cache
        self.staging = staging
        self._loading = Lock()
        self.exec_lock = RLock()  #: held during an inference or the capture of a graph
        self._load, self._input, self._output = (driver.make_stream() for _ in range(3))
        self._load_begin, self._load_end = (driver.make_event(sleeping=True) for _ in range(2))

    def copy_weights(self, to: Address, source: Address, nbytes: Bytes) -> Nanos:
        """Copy weights to the device. Return the duration, measured with the device's clock."""
        driver = self.driver
        with self._loading:
            driver.record(self._load_begin, self._load)
            if nbytes:
                driver.copy_to_device(to, source, nbytes, self._load)
            driver.record(self._load_end, self._load)
            driver.wait(self._load_end)
            return driver.elapsed(self._load_begin, self._load_end)

    def stage(
        self, layout: Layout, fill: Callable[[list[Array]], None], rows: int = 0, padded: int = 0
    ) -> StagedInputs:
        """Let ``fill`` write inputs into pinned memory, and start their copy to the device.

        Raises:
            ServerError: the inputs do not fit into a slot, or the driver failed.
        """
        driver = self.driver
        driver.attach()
        self.staging.check_fits(layout.nbytes, "inputs")
        lease = self.staging.take_input()
        slot = lease.slot
        fill([to_array(tensor) for tensor in layout.tensors(slot.host)])
        driver.copy_to_device(slot.address, slot.host_address, layout.nbytes, self._input)
        driver.record(slot.copied, self._input)
        return StagedInputs(lease, layout, rows, padded)

    def compute(self, staged: StagedInputs, work: Callable[[], Layout]) -> ComputedOutputs:
        """Execute a batch. ``work`` queues operations on EXEC and returns the layout of the outputs.

        This method starts the copy of the outputs to the host, and returns when the device has executed the operations.

        Raises:
            ServerError: PyTorch or the driver failed.
        """
        driver, staging, executor = self.driver, self.staging, self.executor
        driver.attach()
        lease = staging.take_output()
        source, slot = staged.lease.slot, lease.slot
        with self.exec_lock:
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
        return ComputedOutputs(lease, layout, staged.rows, staged.padded)

    def read(self, computed: ComputedOutputs) -> list[Array]:
        """Return a copy of the outputs, so that the slot becomes free before the outputs are sent.

        Raises:
            ServerError: the driver failed.
        """
        self.driver.attach()
        self.driver.wait(computed.lease.slot.copied)
        arrays = [to_array(tensor) for tensor in computed.layout.tensors(computed.lease.slot.host)]
        if computed.rows != computed.padded:
            arrays = [array[: computed.rows] if array.shape[:1] == (computed.padded,) else array for array in arrays]
        return [array.copy() for array in arrays]

    def device_time(self, computed: ComputedOutputs) -> DeviceTime:
        """Return the batch's time on the EXEC stream, and the device's clock frequency near the end of the batch.

        The time includes copies on the device.
        """
        self.driver.attach()
        slot = computed.lease.slot
        return DeviceTime(self.driver.elapsed(slot.begin, slot.end), self.driver.clock_mhz())

    def check_alive(self, error: BaseException) -> None:
        """Check whether the device still works. Call this method after a failure.

        Raises:
            DeviceLostError: the device does not work, so every later call would fail as well.
        """
        if isinstance(error, DeviceLostError):
            raise error
        self.driver.attach()
        self.driver.check()

    def close(self) -> None:
        """Free all memory. No model may be loaded, and no inference may run."""
        self.driver.attach()
        self.staging.close()
        self.cache.close()
