import importlib
import subprocess
import sys

import pytest

import blackbox


@pytest.mark.parametrize("name", blackbox.__all__)
def test_every_public_name_can_be_had(name):
    assert getattr(blackbox, name) is not None


def test_run_is_the_function_even_after_its_module_was_imported():
    assert blackbox.run is importlib.import_module("blackbox.run").run
    code = "import blackbox.run, blackbox; assert blackbox.run.__name__ == 'run'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = blackbox.nonsense


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, blackbox; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
