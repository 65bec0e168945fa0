"""Cases on their way from files to files: loaded, predicted, finished, and shared among devices."""
