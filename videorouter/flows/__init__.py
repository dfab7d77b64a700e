"""Long walks over the rooms of ``io``: tasks, downloads, batches."""
