"""Workloads: who asks for what, when. They drive the simulator and a live server alike.

Rules of the room: pure. Chance comes from a `random.Random` that is handed in, traces as lines, time as an argument;
nothing is generated before it is needed, so that a day takes no more memory than a second.
"""
