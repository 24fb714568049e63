import json
import math
from pathlib import Path

import pytest

from schemas.base import Document, canonical_digest, read_config_values, set_by_dotted_key, validate_config
from schemas.errors import ConfigError, InputError, VerificationError
from schemas.eval_config import EvalConfig
from schemas.labels import ImageLabels
from schemas.qat_config import QatConfig
from schemas.run_config import RunConfig
from schemas.synth_config import SynthConfig

EMPTY_LABELS = {"width": 8, "height": 8, "boxes": []}


def test_unknown_key_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"run.yaml: unknown key 'synth.lables'; did you mean 'labels'"):
        validate_config(RunConfig, {"synth": {"lables": {}}}, "run.yaml")


def test_unknown_key_without_a_neighbour_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"known keys: .*weight_bits"):
        validate_config(QatConfig, {"bits": {"zzz": 1}}, "x")


def test_the_known_keys_of_a_section_are_listed_once():
    with pytest.raises(ConfigError) as caught:
        validate_config(RunConfig, {"eval": {"checkpoints_kept": 2, "ptq_only": True}, "qat": {"dropout": 1}}, "x")
    text = str(caught.value)
    assert text.count("known keys: ") == 2, "of eval and of qat"
    assert "unknown key 'eval.ptq_only'" in text and "unknown key 'eval.checkpoints_kept'" in text


@pytest.mark.parametrize("key", ["k" * 20_000, "\u202e" * 5000])
def test_keys_of_any_length_make_no_long_line(key):
    with pytest.raises(ConfigError) as caught:
        validate_config(RunConfig, {f"{number}{key}": 1 for number in range(20)}, "x")
    assert len(str(caught.value)) < 2000
    assert "more" in str(caught.value)


def test_error_names_field_what_it_got_and_what_it_takes():
    with pytest.raises(ConfigError, match=r"bits.weight_bits: got 9, should be less than or equal to 8"):
        validate_config(QatConfig, {"bits": {"weight_bits": 9}}, "x")


def test_every_offending_field_is_in_one_line():
    with pytest.raises(ConfigError) as caught:
        validate_config(SynthConfig, {"images": 0, "seed": "one"}, "x")
    assert "images: got 0" in str(caught.value) and "seed: got 'one'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused(value):
    with pytest.raises(ConfigError, match=r"learning_rate.*finite"):
        validate_config(QatConfig, {"learning_rate": value}, "x")


@pytest.mark.parametrize("value", ["64", 64.5, True, None])
def test_values_are_not_coerced(value):
    with pytest.raises(ConfigError, match="images"):
        validate_config(SynthConfig, {"images": value}, "x")


def test_value_that_json_cannot_express_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("device: 2026-01-01\n")
    with pytest.raises(ConfigError, match="JSON cannot express"):
        validate_config(SynthConfig, read_config_values(path), str(path))


def test_newer_major_version_is_refused_by_name(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(EMPTY_LABELS | {"schema_version": "2.0"}))
    with pytest.raises(VerificationError, match=r"newer zsq \(schema 2\.0\).*upgrade zsq"):
        ImageLabels.read(path)


def test_newer_minor_version_is_read(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(EMPTY_LABELS | {"schema_version": "1.9"}))
    assert ImageLabels.read(path).schema_version == "1.9"


@pytest.mark.parametrize("version", ["", "one", "-1.0"])
def test_malformed_version_is_refused(tmp_path, version):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(EMPTY_LABELS | {"schema_version": version}))
    with pytest.raises(VerificationError, match=r"major\.minor"):
        ImageLabels.read(path)


def test_missing_document_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        ImageLabels.read(tmp_path / "none.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"width": NaN, "height": 8, "boxes": []}'])
def test_document_that_is_not_valid_fails_verification(tmp_path, content):
    path = tmp_path / "labels.json"
    path.write_bytes(content)
    with pytest.raises(VerificationError, match="not a valid ImageLabels"):
        ImageLabels.read(path)


def test_oversized_document_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(EMPTY_LABELS))
    monkeypatch.setattr("schemas.base.MAX_DOCUMENT_BYTES", 4)
    with pytest.raises(VerificationError, match="larger than"):
        ImageLabels.read(path)


def test_contracts_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        SynthConfig().images = 3  # type: ignore[misc]


def test_document_round_trips_through_its_json(tmp_path):
    path = tmp_path / "document.json"
    path.write_text(Document().to_json())
    assert Document.read(path) == Document()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "got list"),
        ("just text\n", "got str"),
        ("a: [1\n", "not plain YAML"),
        ("a: !!python/object/apply:os.system [true]\n", "not plain YAML"),
        ("a: !custom 1\n", "not plain YAML"),
        ("seed: 1\nseed: 2\n", "'seed' is there twice"),
        ("[" * 5000, "not plain YAML"),
    ],
)
def test_configuration_file_that_is_no_plain_mapping_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_config_values(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_binary_configuration_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="check the path"):
        read_config_values(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not text in UTF-8; check the path"):
        read_config_values(tmp_path / "binary.yaml")


def test_empty_configuration_file_means_defaults(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert validate_config(SynthConfig, read_config_values(tmp_path / "c.yaml"), "x") == SynthConfig()


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", ".0001", "0.0001"])
def test_every_common_spelling_of_a_number_is_a_number(text):
    values = set_by_dotted_key({}, f"learning_rate={text}")
    assert validate_config(QatConfig, values, "x").learning_rate == 1e-4


@pytest.mark.parametrize("text", ["yolo11n.pt", "1e", "e5", "1.2.3", "."])
def test_words_that_resemble_numbers_stay_words(text):
    assert set_by_dotted_key({}, f"device={text}") == {"device": text}


def test_dotted_key_sets_one_value_and_leaves_the_original_alone():
    values = {"qat": {"bits": {"weight_bits": 8}, "steps": 10}}
    assert set_by_dotted_key(values, "qat.bits.weight_bits=4") == {"qat": {"bits": {"weight_bits": 4}, "steps": 10}}
    assert set_by_dotted_key({"qat": None}, "qat.device=a=b") == {"qat": {"device": "a=b"}}
    assert values == {"qat": {"bits": {"weight_bits": 8}, "steps": 10}}


@pytest.mark.parametrize(
    "assignment", ["seed", "=3", "a..b=3", "a.=3", ".a=3", "seed.x=3", "seed=[1", "seed=!!python/none x"]
)
def test_malformed_assignment_is_refused_and_quoted_whole(assignment):
    with pytest.raises(ConfigError) as caught:
        set_by_dotted_key({"seed": 0}, assignment)
    assert repr(assignment) in str(caught.value)


def test_canonical_digest_ignores_key_order_and_refuses_nan():
    assert canonical_digest({"a": 1, "b": [2]}) == canonical_digest({"b": [2], "a": 1})
    assert canonical_digest({"a": 1}) != canonical_digest({"a": 1.5})
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_digest({"a": math.nan})


@pytest.mark.parametrize("text", ["val #1", "#1", "5 # five", "a  b", "val ", " val", "a\nb", "x # # y"])
def test_a_text_typed_on_a_command_line_is_taken_whole(text):
    assert set_by_dotted_key({}, f"data={text}") == {"data": text}


@pytest.mark.parametrize(
    ("text", "value"), [("'val #1'", "val #1"), ('"#"', "#"), ("", None), ("~", None), ("5", 5), ("[1, 2]", [1, 2])]
)
def test_what_is_no_plain_text_is_yaml(text, value):
    assert set_by_dotted_key({}, f"data={text}") == {"data": value}


@pytest.mark.parametrize("text", ["[1, 2] # both", "'a' # b", "{a: 1} #"])
def test_what_follows_a_value_is_not_dropped(text):
    with pytest.raises(ConfigError, match="not plain YAML"):
        set_by_dotted_key({}, f"data={text}")


def test_what_is_shared_does_not_say_where_things_lie_on_their_makers_machine() -> None:
    config = EvalConfig.model_validate_json(
        '{"teacher": {"path": "/home/user/secret/best.pt"}, "data": "~/secret/val", "images": "val/images"}'
    )
    shared = config.shareable()
    assert (shared.teacher.path, shared.data, shared.images) == ("best.pt", "val", "val/images")
    assert "secret" not in shared.to_json()
    assert EvalConfig.model_validate_json(shared.to_json()) == shared


def test_of_very_many_errors_the_first_ones_are_said_at_once():
    text = json.dumps({"width": 8, "height": 8, "boxes": [0] * 50_000}).encode()
    with pytest.raises(VerificationError) as caught:
        ImageLabels.parse(text, "labels")
    said = str(caught.value)
    assert said.endswith("; and 49990 more") and len(said) < 2000


@pytest.mark.parametrize("values", [{"targets": 0.5}, {"targets": ["tensorrt"], "bits": 5}, {"targets": True}])
def test_a_value_of_another_kind_is_named_by_its_field(values):
    with pytest.raises(ConfigError, match=r"^here: (targets|bits): got"):
        validate_config(QatConfig, values, "here")
