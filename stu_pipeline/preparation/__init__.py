"""What the network sees of a case: arrays transposed, cropped, normalised and resampled. Shared by preprocess and predict."""
