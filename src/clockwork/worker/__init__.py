"""Starts each timed action in its time window, executes it, and answers it exactly once. The package is pure."""
