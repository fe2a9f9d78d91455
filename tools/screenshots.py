"""Draw the screenshots of docs/dashboard.md: ``make screenshots``. It takes five minutes.

A server with emulated devices first gets less load than it can serve, and then more. The browser is Debian's Chromium
(apt-get install chromium chromium-driver). Other programs on the machine disturb the emulated devices.
"""

import io
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from PIL import Image

from browser import Browser, driving, why_missing
from clockwork.paced.models import PROFILES, scaled
from dashboard.sites import Site, emulated, requests_to

OUT = Path(__file__).resolve().parent.parent / "docs" / "dashboard"
MODELS = {"detector": 3, "classifier": 4, "embedder": 4, "ranker": 2, "segmenter": 3, "tagger": 2}
"""Number of copies of each model."""

TIMES = {"detector": 8.0, "classifier": 4.0, "embedder": 3.0, "ranker": 2.0, "segmenter": 12.0, "tagger": 3.0}
"""Times of each model as multiples of the times of the profile resnet50-v100."""

PAGES = {"detector": 10, "classifier": 6, "embedder": 4, "ranker": 2, "segmenter": 14, "tagger": 3}
DEVICES = 4
CACHE = "--cache-size=1GiB"
SLO_MS = 400
NORMAL, OVERLOAD = 180, 700
"""Requests per second."""

PHASE = 150.0
"""Duration of each load in seconds."""

COLOURS = 256
"""Number of colours in a file, so that the file is small."""

MAX_BYTES = 200_000
"""Largest size of a file."""


def profiles(path: Path) -> Path:
    """Write the profiles of all models, in the format of ``clockwork status --json``."""
    base = PROFILES["resnet50-v100"]
    models = []
    for name, factor in TIMES.items():
        profile = scaled(base, factor)
        infer = {size: {"samples": found.samples} for size, found in profile.infer.items()}
        tensors = {ports: [{"name": ports, "datatype": "FP32", "shape": [-1, 4]}] for ports in ("inputs", "outputs")}
        info = {"name": name, "digest": name, "batchable": True, "weights_pages": PAGES[name], **tensors}
        times = {"load_weights": {"samples": profile.load_weights.samples}, "infer": infer}
        models.append({"info": info, "profiles": {"emulated": times}})
    path.write_text(json.dumps({"models": models}))
    return path


def save(browser: Browser, name: str, *, whole: bool = False) -> None:
    """Write a screenshot."""
    image = Image.open(io.BytesIO(browser.screenshot(whole=whole))).convert("RGB")
    found = io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(found, "PNG", optimize=True)
    path = OUT / f"{name}.png"
    path.write_bytes(found.getvalue())
    print(f"{path}: {len(found.getvalue()) / 1000:.0f} kB")
    if len(found.getvalue()) > MAX_BYTES:
        raise SystemExit(f"{path} has more than {MAX_BYTES} bytes; draw a smaller part of the page")


def draw(browser: Browser, site: Site, directory: Path, phase: float) -> None:
    """Draw all screenshots."""
    browser.resize(1280, 1470)
    browser.open(site.url)
    with requests_to(site, MODELS, NORMAL, directory, SLO_MS):
        time.sleep(phase)
        save(browser, "normal")
    browser.resize(1280, 1000, dark=True)
    with requests_to(site, MODELS, OVERLOAD, directory, SLO_MS):
        time.sleep(phase)
        save(browser, "overload")
        browser.resize(1280, 1000)
        browser.run("$('#outcome').value = 'refused'; $('#outcome').dispatchEvent(new Event('change'));")
        browser.wait_for("$('#recent td.warn')")
        browser.run("$('#recent button').click()")
        browser.wait_for("$('#explanation .facts')")
        save(browser, "explanation")


def main() -> None:
    """Draw the screenshots, after phases of the length that the first argument sets in seconds."""
    phase = float(sys.argv[1]) if len(sys.argv) > 1 else PHASE
    if missing := why_missing():
        raise SystemExit(missing)
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, driving() as window:
        directory = Path(name)
        with emulated(DEVICES, MODELS, CACHE, profiles=profiles(directory / "profiles.json")) as site:
            draw(window(), site, directory, phase)


if __name__ == "__main__":
    main()
