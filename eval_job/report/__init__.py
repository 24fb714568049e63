"""`report.html`: one self-contained page of an evaluation, made from artifacts alone. Imports no torch."""
