"""The simulator, which runs the production controller, schedulers and worker core in virtual time.

The package contains no copies of Clockwork's code. Simulated parts replace the loop, the links and the devices of the
real hosts, and take no real time. The package adds two things that only a simulator can have: injected faults, and
checkers that see the whole cluster. Two runs with the same seed have exactly the same results.
"""
