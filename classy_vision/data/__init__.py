"""Images and clips, from files to batches."""
