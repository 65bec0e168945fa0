"""Sliding window and export: networks and arrays in, label maps out, a slab at a time. No files."""
