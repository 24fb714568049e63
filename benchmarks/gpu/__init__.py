"""What a GPU makes of the pipeline's steps, in one run with a budget of time."""
