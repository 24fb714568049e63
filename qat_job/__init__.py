"""Stage 2: quantize, calibrate, distil and train, save the student."""
