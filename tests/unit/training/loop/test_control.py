from stu_pipeline.training.loop.control import Orders, RunControl
from stu_pipeline.training.run.signals import SignalFlags


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def test_a_checkpoint_is_due_when_its_time_has_come_and_again_after_it():
    clock = Clock()
    control = RunControl(SignalFlags(), interval_s=600, clock=clock)
    assert control.read_orders() == Orders()
    clock.now_s += 600
    assert control.read_orders() == Orders(is_save_due=True)
    control.note_saved()
    assert control.read_orders() == Orders()


def test_an_interval_of_zero_asks_after_every_step():
    control = RunControl(SignalFlags(), interval_s=0, clock=Clock())
    control.note_saved()
    assert control.read_orders().is_save_due


def test_signals_are_orders_and_a_saved_checkpoint_answers_sigusr1():
    flags = SignalFlags()
    control = RunControl(flags, interval_s=600, clock=Clock())
    flags.wants_save, flags.stop_signal = True, 15
    assert control.read_orders() == Orders(15, is_save_due=True)
    control.note_saved()
    assert control.read_orders() == Orders(15, is_save_due=False)


def test_orders_survive_the_exchange_between_ranks():
    for orders in (Orders(), Orders(2, is_save_due=True), Orders(15)):
        assert Orders.from_numbers(orders.to_numbers()) == orders
