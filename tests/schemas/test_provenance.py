from typing import Any

from schemas.provenance import Provenance
from schemas.version import code_version

CONFIG: dict[str, Any] = {"seed": 0, "labels": {"source": "adaptive", "size": 160}}


def test_equal_configuration_and_inputs_give_equal_keys():
    one = Provenance.of("synth", CONFIG, {"teacher": "a"})
    other = Provenance.of("synth", {"labels": {"size": 160, "source": "adaptive"}, "seed": 0}, {"teacher": "a"})
    assert one.key == other.key
    assert one.differences(other) == []


def test_stage_configuration_and_inputs_all_count():
    keys = {
        Provenance.of("synth", CONFIG, {"teacher": "a"}).key,
        Provenance.of("qat", CONFIG, {"teacher": "a"}).key,
        Provenance.of("synth", CONFIG | {"seed": 1}, {"teacher": "a"}).key,
        Provenance.of("synth", CONFIG, {"teacher": "b"}).key,
        Provenance.of("synth", CONFIG, {}).key,
    }
    assert len(keys) == 5


def test_differences_are_named_with_both_values():
    mine = Provenance.of("synth", CONFIG, {"teacher": "a"})
    theirs = Provenance.of("synth", {"seed": 0, "labels": {"source": "random", "size": 160}}, {"teacher": "b"})
    assert mine.differences(theirs) == ["labels.source: 'adaptive' → 'random'", "teacher: 'a' → 'b'"]


def test_an_input_that_only_one_has_is_a_difference():
    mine = Provenance.of("synth", CONFIG, {})
    theirs = Provenance.of("synth", CONFIG, {"labels": "c"})
    assert mine.differences(theirs) == ["labels: None → 'c'"]


def test_it_comes_back_from_json_and_names_the_code_version():
    provenance = Provenance.of("eval", CONFIG, {"student": "a"})
    assert Provenance.model_validate_json(provenance.to_json()) == provenance
    assert provenance.code_version == code_version() != ""
