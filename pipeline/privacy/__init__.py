"""Whether images of a set look like copies of real ones: a check for the owner of the real images."""
