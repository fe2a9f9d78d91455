"""Workers whose devices execute no models. Each task only takes the time that a profile gives for it.

The package uses no clock and no I/O. Random generators are arguments. The simulator runs these workers in virtual time,
and ``clockwork worker --emulate`` runs them on the real clock. The workers behave alike in both.
"""
