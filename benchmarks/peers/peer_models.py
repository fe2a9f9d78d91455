"""The models of the comparison, and their files for both servers."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench_overload import Size, sized

from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.runtimes.ort import onnxruntime
from clockwork.units import Bytes
from clockwork.workload.mix import zipf
from clockwork.zoo import build

NETWORKS = ("squeezenet", "shufflenet", "inception_v2")
"""Networks that can be loaded and executed within the SLO on a slow core."""

SHAPES = {"mlp": (1, 64)}
IMAGE = (1, 3, 224, 224)
EXPONENT = 1.0
"""The n-th model gets requests in proportion to n ** -EXPONENT."""

PAGE = 1 << 20
"""Page size in bytes of Clockwork's weights cache. With small pages, small models waste little memory."""

REQUESTS = 4093


def models(root: Path, networks: tuple[str, ...], each: int) -> Size:
    """Build ``each`` models of each network with different weights. Successive models are of different networks.

    Models are requested with the popularity of `EXPONENT`. The first model is the most popular one.
    """
    files = []
    for seed in range(each):
        for name in networks:
            directory = root / f"{name}-{seed}"
            directory.mkdir(parents=True)
            files.append(build(name, directory, seed).rename(root / f"{name}-{seed}.onnx"))
    rng = np.random.default_rng(0)
    shapes = [SHAPES.get(file.stem.rpartition("-")[0], IMAGE) for file in files]
    asked = [(file, rng.standard_normal(shape, np.float32)) for file, shape in zip(files, shapes, strict=True)]
    mix = zipf([file.stem for file in files], EXPONENT, random.Random(0))
    position = {file.stem: at for at, file in enumerate(files)}
    return replace(sized("peers", files, asked), kinds=bytes(position[mix()] for _ in range(REQUESTS)))


def optimised(file: Path, directory: Path) -> Path:
    """Write the model after all of ONNX Runtime's optimisations. A session of the result starts faster."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.optimized_model_filepath = str(directory / file.name)
    options.log_severity_level = 3  # a warning says that the result suits only this kind of processor
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return directory / file.name


def weights_bytes(files: list[Path], cache: Path) -> list[Bytes]:
    """Return the pages of each model's weights in bytes. The prepared models are written to ``cache``."""
    runtime = OnnxRuntime(cache_dir=cache)
    sizes = [runtime.load_model(file).info.weights_bytes for file in files]
    return [-(-size // PAGE) * PAGE for size in sizes]
