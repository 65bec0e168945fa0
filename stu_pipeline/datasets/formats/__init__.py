"""The file formats: headers read without trust, voxels unpacked and verified."""
