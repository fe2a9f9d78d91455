"""Checks of a machine for causes of timing jitter in a worker: ``clockwork check-env``.

Rules of the package: `kernel_files` reads files of the kernel, `measurement` measures, and `checks` turns the resulting
facts into findings without I/O. A fact that the machine hides (a container, a virtual machine, an old kernel) is None
and never an error.
"""
