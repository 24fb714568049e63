from pathlib import Path

import pytest

from pipeline.sets.locations import Store, locate
from schemas.errors import ConfigError
from stages.shards import open_calibration_set
from tests.pipeline.sets.conftest import zsq_set


@pytest.mark.parametrize(
    "location",
    [
        "pipe:cat /etc/passwd",
        "pipe://touch ran",
        "shell:touch ran",
        "gs://bucket/set",
        "simplecache::s3://bucket/set",
        "s3://bucket/set::file:///etc",
        "file://host/set",
        "file:set",
        "http:set",
        "http://host/set?token=1",
        "https://host/set#part",
        "s3://",
        "s3:///",
        "http://host/a set",
        "data:text/plain,x",
        "github://owner:repo@main/",
        "ssh://host/set",
        "memory://set",
        "python://x",
    ],
)
def test_nothing_but_folders_http_and_s3_is_opened_and_nothing_runs(location, tmp_path, monkeypatch, set_folder):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError):
        locate(location)
    for result in (zsq_set("pull", location, "here"), zsq_set("push", set_folder, location)):
        assert result.exit_code == 2
        assert result.stderr.startswith("zsq set pu") and result.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("location", ["sets/a", "./pipe:x", "/sets/a", "file:///sets/a"])
def test_folders_are_taken_as_they_are(location):
    store = locate(location)
    assert store.protocol == "file" and Path(store.url).is_absolute()


def test_servers_keep_their_url_without_the_last_slash():
    assert locate("s3://bucket/set/") == Store("s3://bucket/set", "s3")
    assert locate("https://host/set").protocol == "https"


@pytest.mark.parametrize("location", ["s3://bucket/set", "https://host/set", "pipe:cat x"])
def test_a_stage_that_is_given_a_url_names_the_command_that_fetches_it(location):
    with pytest.raises(Exception, match="zsq set pull"):
        open_calibration_set(Path(location))
