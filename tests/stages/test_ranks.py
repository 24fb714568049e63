import pytest

from schemas.errors import ConfigError
from stages.ranks import Rank


def test_without_a_launcher_a_process_is_alone():
    assert Rank.of_environment({}) == Rank(index=0, count=1, local_index=0)


def test_torchrun_s_variables_are_read():
    environment = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert Rank.of_environment(environment) == Rank(index=5, count=8, local_index=1)


@pytest.mark.parametrize(
    "environment",
    [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "-1", "WORLD_SIZE": "2"}, {"WORLD_SIZE": "0"}, {"LOCAL_RANK": "gpu"}],
)
def test_contradictory_variables_are_one_clear_error(environment):
    with pytest.raises(ConfigError, match="RANK below WORLD_SIZE"):
        Rank.of_environment(environment)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_piece_of_work_has_exactly_one_rank(count):
    ranks = [Rank(index, count) for index in range(count)]
    assert all(sum(rank.takes(number) for rank in ranks) == 1 for number in range(10))


def test_a_stage_of_one_process_refuses_several():
    Rank().must_be_alone("qat")
    with pytest.raises(ConfigError, match="qat runs as one process, got WORLD_SIZE=4"):
        Rank(0, 4).must_be_alone("qat")
