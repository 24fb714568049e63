"""Stage 1: sample labels, invert the teacher into images, write the calibration set."""
