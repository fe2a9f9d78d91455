"""Describes the inputs and outputs of a model.

A dimension without a fixed size is -1. The names of dimensions are stored as well, because two dimensions with the same
name have the same size.
"""

from typing import Final

from msgspec import Struct

from clockwork.messages.tensors import TensorInfo

FREE: Final = -1
"""Value that stands for any size."""


class Port(Struct, frozen=True):
    """An input or output, with the names of its dimensions.

    The name of a dimension is empty if the dimension has a fixed size or no name.
    """

    info: TensorInfo
    symbols: tuple[str, ...]


class Signature(Struct, frozen=True):
    """All inputs and outputs of a graph, in the graph's order.

    ``optional`` are further inputs, for which the graph has default values. Trials and batches use the default values.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    optional: tuple[Port, ...] = ()

    @property
    def may_batch(self) -> bool:
        """Whether the declared shapes allow batching.

        Every input and output must have a free first dimension. The first dimensions of the inputs must not have
        different names, because dimensions with different names count different things, such as the nodes and the edges
        of a graph. Only first dimensions may have the name of the batch dimension, because all dimensions of one name
        have the same size.
        """
        ports = self.inputs + self.outputs
        if not self.inputs or not all(port.info.shape and port.info.shape[0] == FREE for port in ports):
            return False
        names = {port.symbols[0] for port in self.inputs} - {""}
        return len(names) <= 1 and not any(names.intersection(port.symbols[1:]) for port in ports)
