"""Which weights to start from: a probe of candidates on the target's own training cases, in minutes."""
