"""What the tests of the command line share."""

import sys

import pytest

from ffr_dist.cli import main


@pytest.fixture
def ffr(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["ffr", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        told = capsys.readouterr()
        return left.value.code or 0, told.out, told.err

    return call
