"""Golden transcripts of whole lives of a controller; see `transcripts`. ``pytest --rewrite`` writes them anew."""

from pathlib import Path

import pytest

from transcripts import Transcript

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_it_happens_as_written(path: Path, request: pytest.FixtureRequest) -> None:
    written = path.read_text()
    transcript = Transcript()
    happened = transcript.run(written)
    transcript.cluster.check_rest()
    if request.config.getoption("--rewrite"):
        path.write_text(happened)
    else:
        assert happened == written
