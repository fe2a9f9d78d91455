"""Implements a fake device in host memory, with a driver that checks every call, and an executor on the CPU.

The driver enforces the rules of CUDA's documentation, and raises AssertionError if a rule is broken. When a page is
mapped or unmapped, its memory is filled with garbage. A stream does no work until a thread waits for it. Then it does
only the work that must be done. So code that forgets to wait reads garbage. Streams in ``hasty`` do all work as soon as
it may be done.
"""

import ctypes
import mmap
from collections.abc import Callable
from itertools import count
from threading import RLock, get_ident
from typing import Any

from runtimes.torch import programs  # noqa: F401 - skips the importing tests without PyTorch

import torch  # isort: skip

from clockwork.errors import DeviceLostError
from clockwork.runtimes.torch.cuda.driver import CudaError, OutOfDeviceMemoryError
from clockwork.units import MIB

GARBAGE = 0xFF  # NaN, if read as a float


class FakeDriver:
    """The driver of a fake device; see the module's docstring.

    ``limit`` is the number of pages of the device. ``failing`` is the name of the call that fails next time.
    """

    name = "fake device"
    granularity = 2 * MIB

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit
        self.failing = ""
        self.memory: dict[int, mmap.mmap] = {}  #: reserved ranges, by address
        self.pages: dict[int, int] = {}  #: size of each page
        self.mapped: dict[int, tuple[int, int]] = {}  #: size and page, by address
        self.allowed: dict[int, int] = {}  #: size, by address
        self.pinned: dict[int, int] = {}
        self.allocated: dict[int, Any] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}  #: work that is queued, by stream
        self.done: dict[int, int] = {}  #: number of operations done, by stream
        self.events: dict[int, tuple[int, int]] = {}  #: stream and position in it, by event
        self.times: dict[int, int] = {}  #: time of each past event
        self.hasty: set[int] = set()
        self.copied = 0
        self.lost = ""
        self.mhz = 1980
        self._lock = RLock()
        self._numbers = count(1)
        self._threads: set[int] = set()

    def attach(self) -> None:
        self._threads.add(get_ident())

    def check(self) -> None:
        self._called("check")
        for stream in self.streams:
            self.drain(stream)

    def clock_mhz(self) -> int:
        return self.mhz

    def allocate(self, nbytes: int) -> int:
        self._called("allocate")
        if nbytes > self.free_bytes():
            raise OutOfDeviceMemoryError("cuMemAlloc failed with CUDA_ERROR_OUT_OF_MEMORY")
        memory = (ctypes.c_uint8 * nbytes)()
        address = ctypes.addressof(memory)
        self.allocated[address] = memory
        self._spoil(address, nbytes)
        return address

    def free(self, address: int) -> None:
        self._called("free")
        del self.allocated[address]

    def free_bytes(self) -> int:
        taken = sum(self.pages.values()) + sum(map(len, self.allocated.values()))
        return self.limit * self.granularity - taken

    def reserve(self, nbytes: int) -> int:
        self._called("reserve")
        assert nbytes > 0
        assert nbytes % self.granularity == 0
        memory = mmap.mmap(-1, nbytes)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert not any(
            address < start + len(memory) and start < address + nbytes for start, memory in self.memory.items()
        )
        self.memory[address] = memory
        return address

    def free_range(self, address: int, nbytes: int) -> None:
        self._called("free_range")
        assert len(self.memory[address]) == nbytes, "a range must be freed with the size of its reservation"
        assert not [start for start in self.mapped if address <= start < address + nbytes], (
            "pages must be unmapped first"
        )
        del self.memory[address]

    def create_page(self, nbytes: int) -> int:
        self._called("create_page")
        assert nbytes % self.granularity == 0
        if nbytes > self.free_bytes():
            raise OutOfDeviceMemoryError("cuMemCreate failed with CUDA_ERROR_OUT_OF_MEMORY")
        page = next(self._numbers)
        self.pages[page] = nbytes
        return page

    def release_page(self, page: int) -> None:
        self._called("release_page")
        assert page not in [mapped for _, mapped in self.mapped.values()], "pages must be unmapped first"
        del self.pages[page]

    def map(self, address: int, nbytes: int, page: int) -> None:
        self._called("map")
        assert nbytes == self.pages[page], "a page must be mapped completely"
        start = self._range(address, nbytes)
        assert (address - start) % self.granularity == 0
        assert page not in [mapped for _, mapped in self.mapped.values()], "a page can be mapped only once"
        assert not [at for at, (size, _) in self.mapped.items() if at < address + nbytes and address < at + size]
        self.mapped[address] = (nbytes, page)
        self._spoil(address, nbytes)

    def allow(self, address: int, nbytes: int) -> None:
        self._called("allow")
        assert self._is_mapped(address, nbytes), "the range must be mapped"
        self.allowed[address] = nbytes

    def unmap(self, address: int, nbytes: int) -> None:
        self._called("unmap")
        assert self.mapped[address][0] == nbytes, "a page must be unmapped with the size of its mapping"
        del self.mapped[address]
        for at, size in list(self.allowed.items()):
            if at <= address < at + size:
                del self.allowed[at]
        self._spoil(address, nbytes)

    def pin(self, address: int, nbytes: int) -> None:
        self._called("pin")
        assert address % mmap.PAGESIZE == 0
        assert not [at for at, size in self.pinned.items() if at < address + nbytes and address < at + size]
        self.pinned[address] = nbytes

    def unpin(self, address: int) -> None:
        self._called("unpin")
        del self.pinned[address]

    def make_stream(self) -> int:
        self._called("make_stream")
        return self.new_stream()

    def new_stream(self) -> int:
        stream = next(self._numbers)
        self.streams[stream], self.done[stream] = [], 0
        return stream

    def make_event(self, sleeping: bool) -> int:
        self._called("make_event")
        return next(self._numbers)

    def record(self, event: int, stream: int) -> None:
        self._called("record")
        with self._lock:
            self.times.pop(event, None)
            self.events[event] = (stream, self.done[stream] + len(self.streams[stream]) + 1)
            self.enqueue(stream, lambda: self.times.update({event: next(self._numbers)}))

    def follow(self, stream: int, event: int) -> None:
        self._called("follow")
        moment = self.events[event]
        self.enqueue(stream, lambda: self._run_to(*moment))

    def wait(self, event: int) -> None:
        self._called("wait")
        self._run_to(*self.events[event])

    def elapsed(self, first: int, second: int) -> int:
        self._called("elapsed")
        assert self.times[first] < self.times[second], "both events must be over"
        return 1000 * (self.times[second] - self.times[first])

    def copy_to_device(self, to: int, source: int, nbytes: int, stream: int) -> None:
        self._called("copy_to_device")
        self._check_on_device(to, nbytes)
        self._copy(to, source, nbytes, stream)

    def copy_on_device(self, to: int, source: int, nbytes: int, stream: int) -> None:
        self._called("copy_on_device")
        self._check_on_device(to, nbytes)
        self._check_on_device(source, nbytes)
        self._copy(to, source, nbytes, stream)

    def copy_to_host(self, to: int, source: int, nbytes: int, stream: int) -> None:
        self._called("copy_to_host")
        assert any(at <= to and to + nbytes <= at + size for at, size in self.pinned.items()), (
            "host memory must be pinned"
        )
        self._check_on_device(source, nbytes)
        self._copy(to, source, nbytes, stream)

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        with self._lock:
            self.streams[stream].append(work)
            if stream in self.hasty:
                self.drain(stream)

    def drain(self, stream: int) -> None:
        """Do all work in a stream."""
        self._run_to(stream, self.done[stream] + len(self.streams[stream]))

    def _run_to(self, stream: int, position: int) -> None:
        with self._lock:
            while self.done[stream] < position:
                work = self.streams[stream].pop(0)
                self.done[stream] += 1
                work()

    def _copy(self, to: int, source: int, nbytes: int, stream: int) -> None:
        def work() -> None:
            ctypes.memmove(to, source, nbytes)
            self.copied += nbytes

        self.enqueue(stream, work)

    def _check_on_device(self, address: int, nbytes: int) -> None:
        places = [*self.allowed.items(), *((at, len(memory)) for at, memory in self.allocated.items())]
        assert any(at <= address and address + nbytes <= at + size for at, size in places), "access must be set first"

    def check_nothing_is_left(self) -> None:
        """Assert that all resources are freed."""
        assert not self.memory
        assert not self.pages
        assert not self.mapped
        assert not self.allowed
        assert not self.pinned
        assert not self.allocated

    def _called(self, name: str) -> None:
        assert get_ident() in self._threads, "each thread must call attach first"
        if self.lost:
            raise DeviceLostError(f"a CUDA device is lost ({name} failed with {self.lost}): the worker exits")
        if self.failing == name:
            self.failing = ""
            raise CudaError(f"{name} failed with CUDA_ERROR_UNKNOWN")

    def _range(self, address: int, nbytes: int) -> int:
        (start,) = (at for at, memory in self.memory.items() if at <= address and address + nbytes <= at + len(memory))
        return start

    def _is_mapped(self, address: int, nbytes: int) -> bool:
        end = address + nbytes
        while address < end and address in self.mapped:
            address += self.mapped[address][0]
        return address == end

    def _spoil(self, address: int, nbytes: int) -> None:
        ctypes.memset(address, GARBAGE, nbytes)


class FakeExecutor:
    """PyTorch on the CPU as a fake device. A replay of a graph computes again when the stream reaches it.

    ``capturable`` states whether graphs can be captured. ``wrong`` is added to the outputs of graphs. ``room`` is the
    number of graphs that fit into memory.
    """

    device_type = "cpu"

    def __init__(self, driver: FakeDriver, capturable: bool = True, wrong: float = 0, room: int = 1000) -> None:
        self.driver = driver
        self.capturable = capturable
        self.wrong = wrong
        self.room = room
        self.stream = driver.new_stream()
        self.captures = 0
        self.replays = 0
        self.eagers = 0
        self.area = 0  #: address of the output area

    def at(self, address: int, nbytes: int) -> Any:
        memory = (ctypes.c_uint8 * nbytes).from_address(address)
        return torch.frombuffer(memory, dtype=torch.uint8)

    def queue(self, compute: Callable[[], Any]) -> Any:
        self.eagers += 1
        self.driver.drain(self.stream)  # kernels must see the results of earlier work in the stream
        with torch.inference_mode():
            return compute()

    def capture(self, compute: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        if not self.capturable:
            raise RuntimeError("operation not permitted when stream is capturing")
        if self.captures >= self.room:
            raise OutOfDeviceMemoryError("CUDA out of memory")
        self.captures += 1
        self.driver.drain(self.stream)
        with torch.inference_mode():
            value = compute()

        def replay() -> None:
            self.replays += 1
            self.driver.enqueue(self.stream, lambda: self._again(compute))

        return replay, value

    def _again(self, compute: Callable[[], Any]) -> None:
        with torch.inference_mode():
            layout = compute()
            if self.wrong:
                layout.tensors(self.at(self.area, layout.nbytes))[0].add_(self.wrong)
