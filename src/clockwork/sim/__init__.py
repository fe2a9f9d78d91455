"""The simulator: the production controller, schedulers and worker core in virtual time.

Rules of the room: nothing of Clockwork is copied here. It has what the real hosts have (a loop, links, devices) in a
form that costs no time, and what only a simulator can have: faults to order, and checkers that see everything. One
seed, one run: the same bytes.
"""
