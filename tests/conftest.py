"""Which tests run, and where: slow ones only with --all, fixtures only where tests run."""

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"  # small tensors; and two threads collapse where a core is busy
for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGINT)):
    if signal.getsignal(number) == signal.SIG_IGN:  # as in a job of the background, or under nohup
        signal.signal(number, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
    signal.signal(signal.SIGINT, signal.default_int_handler)

def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the tests marked slow as well")

def pytest_configure(config):
    """The process that only hands tests out to others needs no PyTorch."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("tests.fixtures")

def pytest_collection_modifyitems(config, items):
    """Leaves out the slow tests, unless all are asked for."""
    if not config.getoption("--all"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in set(slow)]
