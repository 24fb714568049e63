"""The detector families, each a module of its name in `schemas.teacher.Family`. Importing one loads no torch."""
