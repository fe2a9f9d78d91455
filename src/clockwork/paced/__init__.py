"""Devices that take their time from a profile: no model is executed, everything else is as it is.

Rules of the room: no clock, no I/O, and chance is handed in. The simulator hosts these workers in virtual time, and
``clockwork worker --emulate`` on the real clock; neither adds anything to what they do.
"""
