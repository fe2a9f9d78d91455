"""The vocabulary: everything that parts of Clockwork say to each other. Pure data; nothing here does anything."""
