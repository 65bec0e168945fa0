"""What the network sees of a case: transposed, cropped, normalised, resampled. Shared by preprocess and predict."""
