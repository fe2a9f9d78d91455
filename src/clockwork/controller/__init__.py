"""The controller loads and measures models, admits requests, lets a scheduler plan them, and answers clients.

The package is pure: it uses no I/O and no clock.
"""
