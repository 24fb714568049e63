"""What a head sees of an object beyond its box: a mask, keypoints, a turned box; one file for each kind."""
