"""Several trainings of one start, and their moving averages, as one model: kept only if held-out cases say so."""
