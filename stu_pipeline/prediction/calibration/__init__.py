"""`stu calibrate`: learn from the cross-validation what to expect of a prediction, and how to clean it up."""
