"""What is in a file of weights, said for people, also where it could not be used."""
