from stu_pipeline import TrainConfig
from stu_pipeline.training.run.settings import choose_settings


def choose(stored=None, identity=None, **flags):
    return choose_settings(TrainConfig(dataset="4", **flags), stored or {}, precision="bf16", pretrained=identity)


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


def test_a_training_that_begins_with_weights_takes_the_schedule_of_its_recipe():
    tuned = choose(identity="abc")
    assert (tuned.pretrained, tuned.recipe) == ("abc", "warmup")
    assert (tuned.learning_rate, tuned.warmup_epochs, tuned.num_epochs) == (1e-3, 50.0, 1000)
    assert choose(identity="abc", num_epochs=100).warmup_epochs == 5.0
    paper = choose(identity="abc", recipe="paper")
    assert (paper.recipe, paper.learning_rate, paper.warmup_epochs) == ("paper", 1e-3, 0.0)
    scratch = choose(recipe="paper")
    assert (scratch.pretrained, scratch.recipe, scratch.learning_rate) == (None, None, 1e-2)


def test_flags_go_before_the_recipe():
    tuned = choose(identity="abc", learning_rate=0.5, warmup_epochs=3.0, num_epochs=7)
    assert (tuned.recipe, tuned.learning_rate, tuned.warmup_epochs, tuned.num_epochs) == ("warmup", 0.5, 3.0, 7)


def test_a_run_that_goes_on_keeps_its_start_and_recipe():
    stored = {"pretrained": "abc", "recipe": "paper", "learning_rate": 1e-3, "warmup_epochs": 0.0, "num_epochs": 12}
    for identity in (None, "abc"):
        settings = choose(stored, identity=identity, num_epochs=20)
        assert (settings.pretrained, settings.recipe, settings.warmup_epochs) == ("abc", "paper", 0.0)
    scratch = choose({"num_epochs": 12}, identity="abc")
    assert (scratch.pretrained, scratch.recipe, scratch.learning_rate) == (None, None, 1e-2)
