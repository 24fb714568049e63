from typing import Any

from eval_job.report import headline
from schemas.evaluation import EvalReport, Interval, Uncertainty


def caveats(report: EvalReport) -> str:
    return " ".join(headline.caveats(report, [0]))


def test_few_images_and_rendered_scenes_are_warned_of(run: Any) -> None:
    many = run.report.model_copy(update={"data": run.report.data.model_copy(update={"images": 5000})})
    rendered = run.report.model_copy(update={"data": run.report.data.model_copy(update={"format": "rendered"})})

    assert "128 validation images are few" in caveats(run.report)
    assert "are few" not in caveats(many)
    assert "rendered, not photographed" in caveats(rendered)
    assert "rendered" not in caveats(run.report)


def test_a_student_within_the_noise_is_called_so(run: Any) -> None:
    within = Uncertainty(map50_95=Interval(low=0.4, high=0.55), share=Interval(low=0.96, high=1.01), resamples=200)
    models = (*run.report.models[:2], run.report.models[2].model_copy(update={"uncertainty": within}))

    assert "cannot be told apart" in caveats(run.report.model_copy(update={"models": models}))
    assert "cannot be told apart" not in caveats(run.report)


def test_the_page_is_about_the_last_student_not_about_an_export_of_the_teacher(run: Any, exported: EvalReport) -> None:
    float_export = run.report.models[0].model_copy(update={"name": "FP32 ONNX", "file_bytes": 10_000_000})
    report = run.report.model_copy(update={"models": (*run.report.models, float_export)})

    assert headline.headline_model(report).name == "QAT W4A8 deploy"
    assert headline.headline_model(exported).name == "QAT W4A8 deploy, onnxruntime"


def test_an_export_of_the_calibrated_student_alone_is_not_the_headline(run: Any) -> None:
    ptq_export = run.report.models[1].model_copy(
        update={"name": "PTQ W4A8 deploy, openvino", "student": "PTQ W4A8 deploy", "file_bytes": 3_000_000}
    )
    report = run.report.model_copy(update={"models": (*run.report.models, ptq_export)})

    assert headline.headline_model(report).name == "QAT W4A8 deploy"


def test_calibration_alone_is_named_beside_a_trained_student_and_beside_its_export(
    run: Any, exported: EvalReport
) -> None:
    for report in (run.report, exported):
        _, sentences = headline.verdict(report)
        assert "Calibration alone (PTQ) keeps 20.0" in sentences
        assert "other students" not in sentences


def test_other_students_are_pointed_at(run: Any) -> None:
    second = run.report.models[2].model_copy(
        update={"name": "QAT W8A8 deploy", "bits": "W8A8 deploy", "calibrated": None}
    )

    _, sentences = headline.verdict(run.report.model_copy(update={"models": (*run.report.models, second)}))
    assert "The other students are in the table." in sentences
    assert "Calibration alone" not in sentences


def test_a_student_that_was_only_calibrated_is_not_compared_with_itself(run: Any) -> None:
    _, sentences = headline.verdict(run.report.model_copy(update={"models": run.report.models[:2]}))

    assert "Calibration alone" not in sentences


def test_every_model_has_a_colour_and_full_precision_its_own() -> None:
    styles = [headline.style_of(index) for index in range(12)]

    assert styles[:4] == ["c0", "c1", "c2", "c3"]
    assert styles.count("c0") == 1
