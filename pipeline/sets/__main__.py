"""`python -m pipeline.sets`: `zsq set` alone, which needs no PyTorch. What the container `zsq-set` runs."""

from pipeline.sets.commands import set_app

set_app(prog_name="zsq set")
