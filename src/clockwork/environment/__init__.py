"""Checks a machine for causes of varying execution times in a worker. The command is ``clockwork check-env``.

`kernel_files` reads facts from files of the kernel, and `measurement` measures. `checks` turns the facts into findings,
without I/O. A container, a virtual machine or an old kernel may hide a fact. A hidden fact is None, and is never an
error.
"""
