"""Datasets in other forms than nnU-Net v2's: described where they lie, so that everything else sees one form."""
