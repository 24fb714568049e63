"""The artifacts of a whole run, as the tests of the report have them."""

from tests.eval_job.report.conftest import exported, run, sensitivity

__all__ = ["exported", "run", "sensitivity"]
