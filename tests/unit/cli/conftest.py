"""What the command line's tests share."""

from __future__ import annotations

import logging

import pytest

from stu_pipeline.cli.console import Console
from stu_pipeline.log import LOGGER_NAME


@pytest.fixture
def make_console():
    """Make consoles whose copy of stderr is closed at the end of the test, as the end of a process would."""
    made = []

    def make(**options):
        made.append(Console(**options))
        return made[-1]

    yield make
    for console in made:
        console.close()
        console.talk.close()


@pytest.fixture(autouse=True)
def clean_logger():
    logger = logging.getLogger(LOGGER_NAME)
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
