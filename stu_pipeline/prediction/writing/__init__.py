"""What may be written beside a mask: files per label, probabilities, DICOM segmentations."""
