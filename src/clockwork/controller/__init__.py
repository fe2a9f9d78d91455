"""The controller starts the service, admits requests, lets a scheduler decide, and answers clients.

The package is pure: it uses no I/O and no clock.
"""
