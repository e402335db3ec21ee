"""What the tests share: a shim for each test, variants of the binary, file systems and cgroups that go away again."""
import os, shutil, subprocess, tempfile, unittest

from driver import *

NATIVE = os.path.join(TOP, "native")
OUT = os.path.abspath(os.path.join(TOP, "build/native-tests"))
BINARY = os.environ.get("CAISSON_SHIM", os.path.abspath(os.path.join(TOP, "build/native/caisson-shim")))
KILL_REST, STDIN, TERMINAL, STDIN_ONCE = 4, 1, 2, 8


def variant(name, defines="", build=None, more=()):
    """The shim with other definitions, such as another protocol; built once."""
    out = os.path.join(OUT, f"shim-{name}")
    os.makedirs(out, exist_ok=True)
    node = os.path.join(TOP, ".tools/node/bin/node")
    command = ["make", "-s", "-C", NATIVE, "shim", f"OUT={out}", f"DEFINES={defines}"]
    if os.path.exists(node):
        command.append(f"NODE={node}")
    if build:
        command.append(f"BUILD={build}")
    command += more
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return os.path.join(out, "caisson-shim")


def sanitized():
    """With AddressSanitizer and UBSan; memory.c poisons what is free."""
    flags = "-fsanitize=address,undefined -fno-sanitize-recover=all"
    return variant("sanitized", more=["MUSL_CC=clang", "LINK=-no-pie", f"CFLAGS=-O1 -g {flags}",
                                      "FLAGS=-std=c17 -Wall -Wextra -ffunction-sections -fno-pie -MMD -MP -Icommon"])


class ShimCase(unittest.TestCase):
    binary, env = BINARY, None

    def setUp(self):
        self.assertEqual(os.geteuid(), 0, "containers need root")
        self.shim = Shim(self.binary, self.env)
        self.addCleanup(self.shim.stop)
        self.client = self.shim.client()
        self.addCleanup(self.client.close)

    def log(self, name="log"):
        return os.path.join(self.shim.path, "logs", name)

    def lines(self, path):
        return open(path, "rb").read().decode().splitlines()

    def texts(self, path):
        """(stream, tag, text) of every record; fails on a malformed one."""
        found = []
        data = open(path, "rb").read()
        self.assertTrue(data == b"" or data.endswith(b"\n"), "torn record at the end")
        for record in data.split(b"\n")[:-1]:
            match = re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) ([FP]) (.*)", record, re.S)
            self.assertIsNotNone(match, f"not a CRI record: {record[:100]!r}")
            found.append((match[1].decode(), match[2].decode(), match[3]))
        return found

    def assert_fails(self, call, errno=None, detail=None):
        with self.assertRaises(Failed) as caught:
            call()
        if errno is not None:
            self.assertEqual(caught.exception.errno, errno, caught.exception)
        if detail is not None:
            self.assertIn(detail, caught.exception.detail)
        return caught.exception

    def assert_works(self):
        """The shim still does its job."""
        client = self.shim.client()
        path = self.log("works")
        name = f"works{time.monotonic_ns()}"
        client.run_container(name, "/bin/echo", "fine", log=path)
        client.ended(name)
        client.ask("forget", name)
        client.close()
        self.assertEqual(self.texts(path)[-1], ("stdout", "F", b"fine"))

    def file_system(self, size_kib, kind="ext4"):
        """A file system of its own, gone after the test."""
        where = tempfile.mkdtemp(prefix="caisson-shim-fs-")
        self.addCleanup(shutil.rmtree, where)
        mount = os.path.join(where, "mount")
        os.mkdir(mount)
        if kind == "tmpfs":
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "caisson-test", mount], check=True)
        else:
            image = os.path.join(where, "image")
            subprocess.run(["truncate", "-s", f"{size_kib}K", image], check=True)
            subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
            subprocess.run(["mount", "-o", "loop", image, mount], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", mount])
        return mount

    def cgroup(self, controller=None):
        """A cgroup of a v1 controller, or of v2 (None)."""
        root = f"/sys/fs/cgroup/{controller}" if controller else unified_root()
        path = tempfile.mkdtemp(prefix="caisson-shim-", dir=root)

        def remove():
            self.shim.stop()
            for below, _, _ in os.walk(path, topdown=False):
                for _ in range(200):
                    try:
                        os.rmdir(below)
                        break
                    except OSError:
                        time.sleep(0.02)

        self.addCleanup(remove)
        return path


def unified_root():
    for line in open("/proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return before.split()[4]
    raise AssertionError("no cgroup v2")


def in_cgroup(*paths):
    """Operations by which a child puts itself into v1 cgroups."""
    return tuple(("cgroup-attach", f"{path}/tasks") for path in paths)


def processes_with(text):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if text.encode() in open(f"/proc/{pid}/cmdline", "rb").read() and open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z":
                found.append(int(pid))
        except OSError:
            pass
    return [pid for pid in found if pid != os.getpid()]
