"""The controller: start-up in four stages, then requests to the scheduler, actions to workers, answers to clients."""
