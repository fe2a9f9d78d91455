"""A device that is host memory, with a driver that checks every call, and an executor on the CPU.

The driver holds its callers to what CUDA's documentation says of each call; a breach is an AssertionError. Memory
behind addresses holds garbage when a page has come, and when it has gone.
"""

import ctypes
import mmap
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import torch

from clockwork.runtimes.torch.cuda.driver import CudaError, OutOfDeviceMemoryError
from clockwork.units import MIB

GARBAGE = 0xFF  # as floats: not a number


class FakeDriver:
    """See the module. ``limit``: pages that the device has; ``failing``: a call that fails when it comes next."""

    name = "fake device"
    granularity = 2 * MIB

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit
        self.failing = ""
        self.attached = False
        self.memory: dict[int, mmap.mmap] = {}  #: by address: ranges
        self.pages: dict[int, int] = {}  #: sizes
        self.mapped: dict[int, tuple[int, int]] = {}  #: by address: size and page
        self.allowed: dict[int, int] = {}  #: by address: size
        self.pinned: dict[int, int] = {}
        self.events: dict[int, int] = {}  #: when they are recorded
        self.copied = 0
        self._numbers = count(1)

    def attach(self) -> None:
        self.attached = True

    def free_bytes(self) -> int:
        return self.limit * self.granularity - sum(self.pages.values())

    def reserve(self, nbytes: int) -> int:
        self._called("reserve")
        assert nbytes > 0
        assert nbytes % self.granularity == 0
        memory = mmap.mmap(-1, nbytes)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert not any(address < start + len(it) and start < address + nbytes for start, it in self.memory.items())
        self.memory[address] = memory
        return address

    def free_range(self, address: int, nbytes: int) -> None:
        self._called("free_range")
        assert len(self.memory[address]) == nbytes, "a range is freed as it was reserved"
        assert not [it for it in self.mapped if address <= it < address + nbytes], "it is unmapped first"
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
        assert page not in [it for _, it in self.mapped.values()], "it is unmapped first"
        del self.pages[page]

    def map(self, address: int, nbytes: int, page: int) -> None:
        self._called("map")
        assert nbytes == self.pages[page], "a page is mapped whole"
        start = self._range(address, nbytes)
        assert (address - start) % self.granularity == 0
        assert page not in [it for _, it in self.mapped.values()], "a page is mapped once"
        assert not [at for at, (size, _) in self.mapped.items() if at < address + nbytes and address < at + size]
        self.mapped[address] = (nbytes, page)
        self._spoil(address, nbytes)

    def allow(self, address: int, nbytes: int) -> None:
        self._called("allow")
        assert self._is_mapped(address, nbytes), "all of it is mapped"
        self.allowed[address] = nbytes

    def unmap(self, address: int, nbytes: int) -> None:
        self._called("unmap")
        assert self.mapped[address][0] == nbytes, "what was mapped is unmapped as it was"
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
        return next(self._numbers)

    def make_event(self) -> int:
        self._called("make_event")
        return next(self._numbers)

    def record(self, event: int, stream: int) -> None:
        self._called("record")
        self.events[event] = next(self._numbers)

    def wait(self, event: int) -> None:
        self._called("wait")
        assert event in self.events

    def elapsed(self, first: int, second: int) -> int:
        self._called("elapsed")
        assert self.events[first] < self.events[second]
        return 1000 * (self.events[second] - self.events[first])

    def copy_to_device(self, to: int, source: int, nbytes: int, stream: int) -> None:
        self._called("copy_to_device")
        assert any(at <= to and to + nbytes <= at + size for at, size in self.allowed.items()), "access is set first"
        ctypes.memmove(to, source, nbytes)
        self.copied += nbytes

    def check_nothing_is_left(self) -> None:
        """At the end."""
        assert not self.memory
        assert not self.pages
        assert not self.mapped
        assert not self.allowed
        assert not self.pinned

    def _called(self, name: str) -> None:
        assert self.attached
        if self.failing == name:
            self.failing = ""
            raise CudaError(f"{name} failed with CUDA_ERROR_UNKNOWN")

    def _range(self, address: int, nbytes: int) -> int:
        (start,) = (at for at, it in self.memory.items() if at <= address and address + nbytes <= at + len(it))
        return start

    def _is_mapped(self, address: int, nbytes: int) -> bool:
        end = address + nbytes
        while address < end and address in self.mapped:
            address += self.mapped[address][0]
        return address == end

    def _spoil(self, address: int, nbytes: int) -> None:
        ctypes.memset(address, GARBAGE, nbytes)


class FakeExecutor:
    """PyTorch on the CPU, told to be a device. A graph computes anew, into the outputs that it was captured with."""

    def __init__(self, capturable: bool = True) -> None:
        self.capturable = capturable
        self.device = torch.device("cpu")
        self.captures = 0
        self.replays = 0
        self.eagers = 0

    def at(self, address: int, nbytes: int) -> Any:
        memory = (ctypes.c_uint8 * nbytes).from_address(address)
        return torch.frombuffer(memory, dtype=torch.uint8)

    def host_buffer(self, like: Any) -> Any:
        return torch.empty_like(like)

    def eager(self, compute: Callable[[], Sequence[Any]]) -> Sequence[Any]:
        self.eagers += 1
        with torch.inference_mode():
            return compute()

    def capture(self, compute: Callable[[], Sequence[Any]]) -> tuple[Callable[[], None], Sequence[Any]]:
        if not self.capturable:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.captures += 1
        with torch.inference_mode():
            outputs = compute()

        def replay() -> None:
            self.replays += 1
            for to, source in zip(outputs, compute(), strict=True):
                to.copy_(source)

        return replay, outputs

    def run(self, work: Callable[[], None]) -> None:
        with torch.inference_mode():
            work()
