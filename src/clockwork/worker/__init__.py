"""The worker: starts each action within the action's time window, and reports exactly one result.

The package is pure.
"""
