"""Runs one target of `targets` under atheris, which searches for bytes that reach new code. ``make fuzz`` calls it.

    python tests/fuzzing/with_coverage.py NAME CORPUS [options of libFuzzer]

A finding is written to a file. The output contains the name of the file. To reproduce the finding, pass this file in
place of CORPUS.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["clockwork"]):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from fuzzing.targets import SEEDS, TARGETS


def main() -> None:
    """Fuzz the target. This function never returns, because libFuzzer ends the process."""
    name, corpus, *options = sys.argv[1:]
    place = Path(corpus)
    if not place.is_file():
        place.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(SEEDS[name]):
            (place / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], corpus, *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
