"""Checks a machine for causes of varying execution times in a worker. The command is ``clockwork check-env``.

`kernel_files` reads facts from files of the kernel. `measurement` measures further facts. `checks` derives findings
from the facts, without I/O. A container, a virtual machine or an old kernel may hide a fact. The value of a hidden fact
is None; this is not an error.
"""
