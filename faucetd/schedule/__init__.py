"""Schedule: from events to instructions: what to load, whom to grant what, what to evict. Pure."""
