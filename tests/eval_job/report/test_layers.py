import dataclasses
import re
from typing import Any

import pytest

from eval_job.report.artifacts import StudentArtifacts, read_artifacts
from eval_job.report.layers import layers


@pytest.fixture
def student(run: Any) -> StudentArtifacts:
    return read_artifacts(run.report, run.evaluation, [run.student], None).students[0]


def test_each_layer_has_a_dot_for_now_and_a_ring_for_before(student: StudentArtifacts) -> None:
    shown = layers(student)

    assert shown.trained and shown.weights and shown.activations
    for chart in (shown.weights, shown.activations):
        assert chart.count('class="dot') == chart.count('class="ring') == 3
    assert not layers(dataclasses.replace(student, steps_before=[])).trained


def test_a_dead_channel_does_not_flatten_the_chart(student: StudentArtifacts) -> None:
    dead = dataclasses.replace(student.steps[0], weight_low=1e-11)
    weights = layers(dataclasses.replace(student, steps=[dead, *student.steps[1:]])).weights

    heights = [float(y) for y in re.findall(r'class="dot c2" cx="[\d.]+" cy="([\d.]+)"', str(weights))]
    assert len(heights) == 3
    assert max(heights) - min(heights) > 80, "medians a hundredfold apart still stand apart"


def test_a_student_without_quantizers_has_no_chart(student: StudentArtifacts) -> None:
    assert layers(dataclasses.replace(student, steps=[])).weights is None


def test_layers_are_ranked_at_the_bits_of_the_student_or_the_fewest(run: Any, sensitivity: Any) -> None:
    student = read_artifacts(run.report, run.evaluation, [run.student], None).students[0]
    ranking = layers(student).sensitivity
    assert ranking is not None and ranking.bits == 4
    assert [row.name for row in ranking.rows] == ["model.1.conv", "model.0.conv", "model.2.cv1.conv"]
    assert all(0 < place < 1 for row in ranking.rows for _, _, place in row.errors)

    bits = student.manifest.bits.model_copy(update={"weight_bits": 6})
    manifest = student.manifest.model_copy(update={"bits": bits})
    fewest = layers(dataclasses.replace(student, manifest=manifest)).sensitivity
    assert fewest is not None and fewest.bits == 2
