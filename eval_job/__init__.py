"""Stage 3, evaluation: what the teacher and its students are worth on real images, side by side."""
