import pytest

from stu_pipeline.training.loop.position import Position


def test_a_position_survives_a_checkpoint():
    position = Position(step=3, losses=[0.5, -0.25], num_skipped=1, elapsed_s=2.5, is_complete=True)
    assert Position.from_json(position.to_json()) == position


def test_nothing_is_the_start_of_an_epoch():
    assert Position.from_json({}) == Position()


@pytest.mark.parametrize("wrong", [{"step": "many"}, {"losses": 3}, {"losses": [[]]}, [], {"elapsed_s": None}])
def test_anything_else_is_refused(wrong):
    with pytest.raises(ValueError, match=r".+"):
        Position.from_json(wrong)
