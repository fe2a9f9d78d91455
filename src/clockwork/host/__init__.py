"""Runs the controller's and the worker's machines on event loops and threads, with real clocks and files."""
