"""What a model takes and gives, in the vocabulary's words.

Rules of the file: a dimension without a number is -1, whatever it is called; its name is kept beside, because two
dimensions of one name are one size.
"""

from typing import Final

from msgspec import Struct

from clockwork.messages.tensors import TensorInfo

FREE: Final = -1
"""A dimension of any size."""


class Port(Struct, frozen=True):
    """An input or output, with the names of its dimensions (empty where a dimension has a number or no name)."""

    info: TensorInfo
    symbols: tuple[str, ...]


class Signature(Struct, frozen=True):
    """All inputs and outputs of a graph, in its order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def may_batch(self) -> bool:
        """Whether the declaration allows to put the rows of several requests into one.

        Every input and output has a free first dimension. The inputs' are not named differently: such rows are counted
        apart (nodes and edges of a graph, say). And that name is not the name of another dimension, which would grow
        with the batch.
        """
        ports = self.inputs + self.outputs
        if not self.inputs or not all(port.info.shape and port.info.shape[0] == FREE for port in ports):
            return False
        names = {port.symbols[0] for port in self.inputs} - {""}
        return len(names) <= 1 and not any(names.intersection(port.symbols[1:]) for port in ports)
