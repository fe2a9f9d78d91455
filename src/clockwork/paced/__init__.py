"""Workers whose devices execute no model: each task takes the time given by a profile.

Rules of the package: no clock and no I/O; random generators are arguments. The simulator runs these workers in virtual
time, and ``clockwork worker --emulate`` runs them on the real clock. Neither adds anything to their behaviour.
"""
