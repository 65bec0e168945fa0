"""What a prediction will take, and how much of it may run at once."""
