"""Defines workloads. A workload determines which requests are sent, and when.

The simulator and the load test of a live server use the same workloads. The package is pure. The time and a
`random.Random` are arguments, and traces are passed as lines. Requests are generated only when they are due, so a
workload of a day takes no more memory than a workload of a second.
"""
