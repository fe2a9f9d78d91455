"""The simulator: the production controller, schedulers and worker core in virtual time.

The package contains no copies of Clockwork's code. The package replaces the parts of the real hosts (loop, links,
devices) with parts that take no real time. The package adds parts that only a simulator can have, which are injected
faults and checkers that see the whole cluster. The same seed gives the same bytes of results.
"""
