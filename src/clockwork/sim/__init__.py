"""The simulator: the production controller, schedulers and worker core in virtual time.

Rules of the package: no code of Clockwork is copied here. The package adds the parts that the real hosts have (a loop,
links, devices) in a form that takes no real time, and the parts that only a simulator can have: injected faults, and
checkers that see the whole cluster. The same seed gives the same bytes of results.
"""
