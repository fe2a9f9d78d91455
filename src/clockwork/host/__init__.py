"""The hosts: event loops, threads, files and clocks that run the controller's and the worker's machines."""
