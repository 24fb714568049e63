"""A budget instead of bits: the smallest student that loses at most so many points, found by trying.

Each student that is tried is calibrated, not trained, with weight bits planned from the sensitivity of its layers, and
measured by eval as any student is. Fewer bits lose more, so the fewest that hold are found by halving the bits between
one student that holds and one that does not. A student and an evaluation are folders below `search/`, so that a search
goes on where it stopped.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline.executor import Executor, run_stages
from pipeline.plan import SEARCH_FOLDER, STUDENT_FOLDER, plan_stages, plan_try
from schemas.errors import ConfigError, ExitCode
from schemas.evaluation import REPORT, EvalReport
from schemas.planned_bits import SensitivityConfig
from schemas.run_config import RunConfig
from schemas.search import SEARCH, SearchReport, Tried
from schemas.sensitivity import SENSITIVITY
from schemas.student import MANIFEST, StudentManifest
from stages.stage import Stage
from stages.storage import write_text

LADDER = (2.5, 3.0, 3.5, 4.0, 4.25, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0)
"""Mean weight bits that are tried, where the widths of layers allow them."""


SMALLEST_DROP, LARGEST_DROP = 0.01, 100.0
"""Points of mAP50-95 that may be lost, the least and the most."""


def check_search(config: RunConfig, max_drop: float) -> None:
    """Check that a largest drop alone decides the weight bits of a run.

    Raises:
        ConfigError: it is no number of points, or a setting decides them too.
    """
    if not SMALLEST_DROP <= max_drop <= LARGEST_DROP:
        raise ConfigError(f"max-drop: got {max_drop:g}; write points of mAP, {SMALLEST_DROP:g} to {LARGEST_DROP:g}")
    measured = config.qat.sensitivity
    others = {
        "qat.sensitivity.budget (--budget)": measured.budget if measured else None,
        "qat.sensitivity.max_drop": measured.max_drop if measured else None,
        "qat.bits.layers": f"a plan for {len(config.qat.bits.layers)} layers" if config.qat.bits.layers else None,
    }
    for setting, value in others.items():
        if value is not None:
            raise ConfigError(
                f"max-drop: got {max_drop:g}, and {setting} is {value} as well; each of them decides the weight bits: "
                "leave one of the two out"
            )


@dataclass(frozen=True)
class Search:
    """A search for the smallest student.

    Attributes:
        config: of the run; its bits of activations hold for every student.
        max_drop: points of mAP50-95 that may be lost.
        executor: starts the stages.
        overwrite: replace what was made with other settings.
        stage: the run.
    """

    config: RunConfig
    max_drop: float
    executor: Executor
    overwrite: bool
    stage: Stage

    def run(self) -> int:
        """Make the set, try students, make the smallest that holds with its files and report.

        Returns:
            The exit code of the stage that failed; `BAD_INPUT` where no student holds, and 0.
        """
        synth = plan_stages(self.config, overwrite=self.overwrite)[:1]
        if code := run_stages(synth, self.executor, self.stage):
            return code
        tried: list[Tried] = []
        ladder = [rung for rung in LADDER if rung > self.config.qat.planned_widths[0]]  # first and last layers have 8
        low, high = -1, len(ladder) - 1  # rungs that do not hold, and that may
        rung = high
        while True:
            commands = plan_try(self.with_bits(ladder[rung]), f"{ladder[rung]:g}-bits", overwrite=self.overwrite)
            self._reuse_sensitivity(commands[0].output)
            if code := run_stages(commands, self.executor, self.stage):
                return code
            evaluation = EvalReport.read(commands[1].output / REPORT)
            tried.append(self._judged(ladder[rung], evaluation))
            low, high = (low, rung) if tried[-1].holds else (rung, high)
            if high - low <= 1:
                return self._keep(tried, evaluation)
            rung = (low + high) // 2

    def with_bits(self, mean_bits: float) -> RunConfig:
        """The run of a student that is calibrated at so many mean weight bits."""
        bits = self.config.qat.bits.model_copy(update={"weight_bits": 8})
        measured = (self.config.qat.sensitivity or SensitivityConfig()).model_copy(update={"max_drop": None})
        sensitivity = measured.model_copy(update={"budget": mean_bits}) if mean_bits < LADDER[-1] else None
        qat = self.config.qat.model_copy(update={"bits": bits, "ptq_only": True, "sensitivity": sensitivity})
        return self.config.model_copy(update={"qat": qat})

    def _reuse_sensitivity(self, student: Path) -> None:
        """What was measured of the layers once holds for every plan."""
        tried = Path(self.config.storage).expanduser() / SEARCH_FOLDER
        measured = sorted(tried.glob(f"*/{STUDENT_FOLDER}/{SENSITIVITY}"))
        if measured and not (student / SENSITIVITY).exists():
            student.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(measured[0], student / SENSITIVITY)

    def _judged(self, mean_bits: float, evaluation: EvalReport) -> Tried:
        full, student = evaluation.models[0], evaluation.models[-1]
        drop = 100 * (full.precision.map50_95 - student.precision.map50_95)
        judged = Tried(
            mean_weight_bits=mean_bits,
            student_sha256=student.weights_sha256,
            map50_95=student.precision.map50_95,
            drop=drop,
            holds=drop <= self.max_drop,
        )
        verdict = "holds" if judged.holds else "does not hold"
        self.stage.reporter.message(
            f"{mean_bits:g} weight bits in the mean: {student.precision.map50_95:.3f} "
            f"({evaluation.measure.value}), {drop:.2f} points lost: {verdict}"
        )
        return judged

    def _keep(self, tried: list[Tried], evaluation: EvalReport) -> int:
        """Make the student that is kept with its files, then its report."""
        holding = [each for each in tried if each.holds]
        kept = min(holding or tried, key=lambda each: each.mean_weight_bits)
        report = SearchReport(
            measure=evaluation.measure,
            data_digest=evaluation.data.digest,
            max_drop=self.max_drop,
            full_precision=evaluation.models[0].precision.map50_95,
            tried=tuple(tried),
            kept=kept.student_sha256,
        )
        _, qat, judge = plan_stages(self.with_bits(kept.mean_weight_bits), overwrite=self.overwrite)
        self._reuse_sensitivity(qat.output)
        if code := run_stages((qat,), self.executor, self.stage):
            return code
        made = StudentManifest.read(qat.output / MANIFEST).weights_sha256
        assert made == kept.student_sha256, "the same settings give the same weights"
        write_text(qat.output / SEARCH, report.to_json())
        if code := run_stages((judge,), self.executor, self.stage):
            return code
        if not holding:
            self.stage.reporter.error(
                f"max-drop {self.max_drop:g}: 8 weight bits already lose {kept.drop:.2f} points; that student is "
                "kept. Allow more, or measure on more images"
            )
            return ExitCode.BAD_INPUT
        return ExitCode.DONE
