"""The worker: decides when each timed action starts, executes it in its time window, and answers each once. Pure."""
