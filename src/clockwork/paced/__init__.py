"""Paced workers: their devices execute no models. A task only waits for the time that a profile states.

The package uses no clock and no I/O. Callers pass the random generators. The simulator runs these workers in virtual
time, and ``clockwork worker --emulate`` runs them on the real clock. The workers behave the same in both cases.
"""
