"""Quantizers, what a policy quantizes, step-size initialisation, and the student's files."""
