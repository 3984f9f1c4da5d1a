"""Closing the browser that draws images: silent, and what is logged afterwards is heard again."""

import logging

import pytest

from probe.plotting.export import _hush_browser


def test_half_messages_of_a_closing_browser_are_not_logged(caplog: pytest.LogCaptureFixture):
    logger = logging.getLogger("choreographer.channels.pipe")
    with _hush_browser():
        logger.error("half")
    logger.error("whole")
    assert caplog.messages == ["whole"]
