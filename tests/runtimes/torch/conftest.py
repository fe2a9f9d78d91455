"""Compiles programs once for all tests, because each compilation takes seconds."""

from pathlib import Path
from typing import Any

import pytest


def _compiled(module: Any, path: Path, *shape: int) -> Path:
    import torch

    from clockwork.errors import InvalidRequestError
    from clockwork.runtimes.torch.compiling import check_compiler
    from clockwork.runtimes.torch.exporting import Example, export

    try:
        check_compiler()
    except InvalidRequestError as error:
        pytest.skip(str(error))
    export(module, [Example(shape, torch.float32)]).compiled().save(path)
    return path


@pytest.fixture(scope="session")
def compiled_conv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from runtimes.torch.programs import Conv

    return _compiled(Conv(), tmp_path_factory.mktemp("conv") / "m.pt2", 1, 3, 16, 16)


@pytest.fixture(scope="session")
def compiled_busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from runtimes.torch.programs import Busy

    return _compiled(Busy(), tmp_path_factory.mktemp("busy") / "m.pt2", 1, 2048)
