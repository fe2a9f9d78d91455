"""Compares the versions of Clockwork, Ray and Python on the nodes of a cluster."""

import platform

from clockwork.version import __version__


def own_versions() -> dict[str, str]:
    """Return the versions in this process. Ray has to be importable."""
    import ray

    return {"clockwork": __version__, "ray": ray.__version__, "python": ".".join(platform.python_version_tuple()[:2])}


def version_fault(here: dict[str, str], expected: dict[str, str], node: str) -> str:
    """Return why a node cannot run a part of a fleet, or an empty text if all versions are equal."""
    differing = [name for name, version in expected.items() if here.get(name) != version]
    if not differing:
        return ""
    found = ", ".join(f"{name} {here.get(name, 'unknown')}" for name in differing)
    wanted = ", ".join(f"{name} {expected[name]}" for name in differing)
    return f"node {node} has {found}, but the fleet was started with {wanted}; install the same versions on all nodes"
