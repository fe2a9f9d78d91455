"""What hurts the predictability of a worker on this host: read, measured, and judged.

Rules of the room: `reading` reads files, `measuring` measures, `judging` is pure: facts in, findings out. What a host
does not tell, because it is a container, a virtual machine or an old kernel, is None, and never an error.
"""
