"""Defines workloads, which determine which requests are sent and when.

The simulator and the load test of a live server use the same workloads. The package is pure. Time and a `random.Random`
are arguments, and traces are passed as lines. Requests are generated when they are due, so a day takes no more memory
than a second.
"""
