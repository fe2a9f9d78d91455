"""Recorded transcripts of controllers; see `transcripts`. ``pytest --rewrite`` writes them again."""

from pathlib import Path

import pytest

from transcripts import Transcript

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_controller_behaves_as_its_transcript(path: Path, request: pytest.FixtureRequest) -> None:
    written = path.read_text()
    transcript = Transcript()
    happened = transcript.run(written)
    transcript.cluster.check_rest()
    if request.config.getoption("--rewrite"):
        path.write_text(happened)
    else:
        assert happened == written
