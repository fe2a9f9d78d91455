"""Workloads: which requests are sent when. They drive the simulator and a live server alike.

Rules of the package: it is pure. Random numbers come from a `random.Random` argument, traces come as lines, and time is
an argument. Requests are generated when they are due, so a day takes no more memory than a second.
"""
