"""Runs in an environment of its own: from a student's network and step sizes to a LiteRT file. Imports none of ours."""
