"""`stu calibrate`: learn from the cross-validation of a model what to expect of its masks."""
