"""Makes model repositories. The files are not models, because the package never reads model files."""

from pathlib import Path


def write(root: Path, *files: str, text: str = "model") -> Path:
    """Write small files below ``root``. Return ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def configure(root: Path, name: str, config: str) -> None:
    """Write a config.pbtxt for a model."""
    write(root, f"{name}/config.pbtxt", text=config)
