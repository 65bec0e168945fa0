"""Loop: steps and epochs, and everything that happens while they run."""
