"""Studies: a matrix of datasets, scales and starts, run, resumed and summed up."""
