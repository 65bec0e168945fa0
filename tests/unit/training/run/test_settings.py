from stu_pipeline import TrainConfig
from stu_pipeline.training.run.settings import choose_settings


def choose(stored=None, **flags):
    return choose_settings(TrainConfig(dataset="4", **flags), stored or {}, precision="bf16")


def test_a_new_run_takes_nnunets_schedule_and_a_seed_of_its_own():
    first, second = choose(), choose()
    assert (first.num_epochs, first.num_iterations, first.num_val_iterations, first.learning_rate) == (
        1000,
        250,
        50,
        0.01,
    )
    assert first.seed is not None and first.seed != second.seed
    assert (first.augment, first.patience, first.ema_decay) == ("device", None, None)


def test_what_was_stored_goes_on_and_a_flag_goes_before_it():
    stored = {"num_epochs": 12, "seed": 7, "augment": "none", "ema_decay": 0.9, "memory_layout": "channels_last"}
    settings = choose(stored, num_epochs=20)
    assert (settings.num_epochs, settings.seed, settings.augment, settings.ema_decay) == (20, 7, "none", 0.9)
    assert settings.memory_layout == "channels_last"


def test_validation_batches_follow_the_steps_in_nnunets_proportion():
    assert choose(num_iterations=20).num_val_iterations == 4
    assert choose(num_iterations=1).num_val_iterations == 1


def test_minutes_between_checkpoints_are_kept_in_seconds():
    assert choose(checkpoint_minutes=0.5).checkpoint_interval_s == 30
