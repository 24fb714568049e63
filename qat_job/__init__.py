"""Stage 2: quantize the teacher, calibrate, distil and train on a calibration set, save the student."""
