"""The worker: starts each timed action in its time window, executes it, and answers it exactly once. Pure."""
