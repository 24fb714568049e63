"""Stage 1: sample labels, invert the teacher into images, write them as a calibration set."""
