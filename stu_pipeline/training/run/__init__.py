"""Run: what one training of one fold needs around its loop: finding, opening, resuming, recording."""
