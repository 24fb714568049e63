"""What each step of the pipeline costs beside its floor."""
