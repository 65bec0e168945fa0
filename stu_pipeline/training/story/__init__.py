"""Story: what a run tells while it goes on, to the disk, to trackers and to those who watch."""
