"""Lists the tests of the shim, or runs one: one.py | one.py test_log.Format.test_..."""
import sys, unittest, warnings

modules = ["test_protocol", "test_container", "test_log", "test_exec", "test_streams", "test_reexec", "test_memory"]


def each(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from each(item)
        else:
            yield item.id()


# Sockets and pipes of a test end with its process.
warnings.simplefilter("ignore")
if len(sys.argv) == 1:
    print("\n".join(each(unittest.defaultTestLoader.loadTestsFromNames(modules))))
else:
    result = unittest.TextTestRunner(verbosity=0).run(unittest.defaultTestLoader.loadTestsFromName(sys.argv[1]))
    sys.exit(0 if result.wasSuccessful() and result.testsRun == 1 and not result.skipped else 1)
