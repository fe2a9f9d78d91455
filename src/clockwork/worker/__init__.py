"""The worker's core: obeys timed actions, decides what each lane starts when, and answers each action once."""
