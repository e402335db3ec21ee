"""Starts the built shim and speaks its protocol: the tables come from the generated headers, so nothing is written down twice."""
import array, fcntl, os, re, resource, select, signal, socket, struct, subprocess, tempfile, time

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../..")
GEN = os.path.join(TOP, "native/common/gen")
POD = "0123456789abcdef" * 4
NO_SLOT = 0xFFFFFFFF
NO_OP = 0xFFFFFFFF
KIND = dict(time=0x80, mnt=0x20000, cgroup=0x2000000, uts=0x4000000, ipc=0x8000000, user=0x10000000, pid=0x20000000, net=0x40000000)
SEALS = 1 | 2 | 4 | 8
F_ADD_SEALS = 1033


def table(file):
    text = open(os.path.join(GEN, file)).read()
    return {name: (int(code), signature) for code, name, signature in re.findall(r'X\((\d+), "([a-z-]+)", "([a-zA-Z]*)"\)', text)}


def field_names(file, prefix, rows):
    """MSG_EXEC_KILL_ID begins with MSG_EXEC_ too: the longest owner has it."""
    text = open(os.path.join(GEN, file)).read()
    owners = sorted(rows, key=len, reverse=True)
    names = {name: {} for name in rows}
    for define, index in re.findall(rf"#define {prefix}_([A-Z_0-9]+) (\d+)\n", text):
        owner = next((n for n in owners if define.startswith(n.upper().replace("-", "_") + "_")), None)
        if owner is not None:
            names[owner][int(index)] = define[len(owner) + 1:].lower()
    return {name: [names[name][i] for i in range(len(rows[name][1]))] for name in rows}


MESSAGES = table("shim_messages.h")
MESSAGE_FIELDS = field_names("shim_messages.h", "MSG", MESSAGES)
OPS = table("plan_ops.h")
NAME_OF = {code: name for name, (code, _) in MESSAGES.items()}


def put(signature, values):
    out = b""
    assert len(signature) == len(values), (signature, values)
    for kind, value in zip(signature, values):
        if kind == "u":
            out += struct.pack("<I", value)
        elif kind == "U":
            out += struct.pack("<Q", value)
        elif kind == "I":
            out += struct.pack("<q", value)
        elif kind == "s":
            raw = value.encode()
            out += struct.pack("<I", len(raw)) + raw + b"\0"
        elif kind == "b":
            out += struct.pack("<I", len(value)) + value
        elif kind == "S":
            out += struct.pack("<I", len(value)) + b"".join(put("s", [item]) for item in value)
        elif kind == "L":
            out += struct.pack("<I", len(value)) + b"".join(struct.pack("<I", item) for item in value)
    return out


def take(signature, data):
    values, at = [], 0

    def u32():
        nonlocal at
        at += 4
        return struct.unpack_from("<I", data, at - 4)[0]

    def text():
        nonlocal at
        size = u32()
        at += size + 1
        assert data[at - 1] == 0
        return data[at - 1 - size:at - 1].decode()

    for kind in signature:
        if kind == "u":
            values.append(u32())
        elif kind in "UI":
            values.append(struct.unpack_from("<Q" if kind == "U" else "<q", data, at)[0])
            at += 8
        elif kind == "s":
            values.append(text())
        elif kind == "S":
            values.append([text() for _ in range(u32())])
        elif kind == "L":
            values.append([u32() for _ in range(u32())])
        else:
            raise AssertionError(kind)
    assert at == len(data), "trailing bytes"
    return values


def plan(*ops):
    body = b""
    for name, *values in ops:
        code, signature = OPS[name]
        fields = put(signature, values)
        body += struct.pack("<HHI", code, 0, len(fields)) + fields
    return struct.pack("<IHHI", 0x4E4C5043, 1, len(ops), 12 + len(body)) + body


ENV = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"]


def init_plan(*argv, before=(), stdin=False, env=ENV):
    return plan(
        ("clean-start",),
        *before,
        ("stdio", 0 if stdin else NO_SLOT, 1, 2),
        ("park",),
        ("exec", argv[0], list(argv), env),
    )


def exec_plan(*argv, before=(), env=ENV):
    return plan(("clean-start",), *before, ("stdio", NO_SLOT, 0, 1), ("exec", argv[0], list(argv), env))


def terminal_plan(*argv):
    return plan(("clean-start",), ("console", 24, 80, 0, 0), ("park",), ("exec", argv[0], list(argv), ENV))


class Message:
    def __init__(self, name, request, values, fds):
        self.name, self.request, self.fds = name, request, fds
        for field, value in zip(MESSAGE_FIELDS[name], values):
            setattr(self, field, value)

    def __repr__(self):
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in vars(self).items() if k != 'name')})"


class Failed(Exception):
    def __init__(self, message):
        super().__init__(repr(message))
        self.message = message
        self.errno, self.op, self.detail = message.errno, message.op, message.detail


class Gone(Exception):
    pass


class Client:
    def __init__(self, directory, hello=True, low=1, high=99):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # A socket's address is short; the directory need not be.
        fd = os.open(directory, os.O_PATH)
        self.socket.connect(f"/proc/self/fd/{fd}/shim.sock")
        os.close(fd)
        self.seen, self.next = [], 0
        if hello:
            self.hello = self.ask("hello", low, high, "test", answer="hello-reply")

    def close(self):
        self.socket.close()

    def send(self, name, *values, fds=(), request=None):
        code, signature = MESSAGES[name]
        self.next += 1
        request = self.next if request is None else request
        payload = put(signature, values)
        if len(payload) <= 32768:
            self.raw(struct.pack("<HHII", code, 0, request, len(payload)) + payload, fds)
            return request
        memfd = os.memfd_create("payload", os.MFD_ALLOW_SEALING)
        os.write(memfd, payload)
        fcntl.fcntl(memfd, F_ADD_SEALS, SEALS)
        self.raw(struct.pack("<HHII", code, 1, request, len(payload)), (memfd, *fds))
        os.close(memfd)
        return request

    def raw(self, packet, fds=()):
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.socket.sendmsg([packet], control)
        except (BrokenPipeError, ConnectionResetError):
            raise Gone()

    def receive(self, timeout=10.0):
        if not select.select([self.socket], [], [], timeout)[0]:
            return None
        try:
            data, control, _, _ = self.socket.recvmsg(65536, socket.CMSG_SPACE(253 * 4), socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            raise Gone()
        if not data:
            raise Gone()
        fds = array.array("i")
        for _, _, bytes_ in control:
            fds.frombytes(bytes_[: len(bytes_) - len(bytes_) % 4])
        code, flags, request, length = struct.unpack_from("<HHII", data)
        assert flags == 0 and length == len(data) - 12, data
        name = NAME_OF[code]
        return Message(name, request, take(MESSAGES[name][1], data[12:]), list(fds))

    def until(self, want, timeout=10.0):
        """The first message for which `want` holds, also among those that came earlier."""
        for message in self.seen:
            if want(message):
                self.seen.remove(message)
                return message
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            message = self.receive(left)
            if message is None:
                break
            if want(message):
                return message
            self.seen.append(message)
        raise AssertionError(f"no such message in {timeout} s; seen: {self.seen}")

    def answer(self, request, answer, timeout=10.0):
        message = self.until(lambda m: m.request == request and m.name in (answer, "failed"), timeout)
        if message.name == "failed" and answer != "failed":
            raise Failed(message)
        return message

    def ask(self, name, *values, answer="ok", fds=(), timeout=10.0):
        return self.answer(self.send(name, *values, fds=fds), answer, timeout)

    def event(self, name, timeout=10.0, **fields):
        return self.until(lambda m: m.name == name and all(getattr(m, k) == v for k, v in fields.items()), timeout)

    # ---- requests

    def create(self, id, program, flags=0, kinds=0, cgroup="", kill=(), oom="", log="", line=0, deadline=5000, fds=()):
        return self.ask("create", id, flags, kinds, cgroup, list(kill), oom, log, line, deadline, program, answer="created", fds=fds)

    def start(self, id):
        return self.ask("start", id, answer="started")

    def run_container(self, id, *argv, **options):
        created = self.create(id, init_plan(*argv), **options)
        self.start(id)
        return created.pid

    def exec(self, id, exec_id, program, timeout=0, fds=(), cgroup=""):
        return self.ask("exec", id, exec_id, 0, cgroup, timeout, program, answer="exec-started", fds=fds)

    def exec_output(self, id, exec_id, *argv, timeout=0, cgroup=""):
        """(exit event, output) of a command."""
        read, write = os.pipe()
        try:
            self.exec(id, exec_id, exec_plan(*argv), timeout, (write, write), cgroup)
        finally:
            os.close(write)
        ended = self.event("exec-exit", exec_id=exec_id, timeout=20)
        os.set_blocking(read, False)
        output = b""
        while True:
            try:
                chunk = os.read(read, 65536)
            except BlockingIOError:
                break
            if not chunk:
                break
            output += chunk
        os.close(read)
        return ended, output.decode()

    def kill(self, id, sig=signal.SIGKILL, scope=0):
        return self.ask("signal", id, int(sig), scope)

    def ended(self, id, timeout=15.0, ack=True):
        event = self.event("exit", timeout, id=id)
        if ack:
            self.ask("ack-exit", id)
        return event

    def states(self):
        request = self.send("list")
        self.answer(request, "ok")
        found = [m for m in self.seen if m.name == "container-state" and m.request == request]
        self.seen = [m for m in self.seen if m not in found]
        return {m.id: m for m in found}


class Shim:
    """A running shim in a temporary directory; `path` is the pod's directory."""

    def __init__(self, binary, env=None, directory=None, image=None, soft_nofile=None):
        self.stopped = False
        self.own = directory is None
        self.path = directory or tempfile.mkdtemp(prefix="caisson-shim-test-")
        self.image = image if image is not None else sealed(binary)
        ready, ready_write = os.pipe()
        pod = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        null = os.open("/dev/null", os.O_RDWR)
        self.pid = os.fork()
        if self.pid == 0:
            fds = [null, null, 2, pod, ready_write, self.image]
            copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in fds]
            for target, fd in enumerate(copies[:5]):
                os.dup2(fd, target)
            if soft_nofile is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft_nofile, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            # As the addon does: execveat of the image, which leaves "/dev/fd/N" as its name.
            os.execve(copies[5], ["caisson-shim", "--pod", POD], env or {})
        for fd in (ready_write, pod, null):
            os.close(fd)
        said = b""
        while chunk := os.read(ready, 4096):
            said += chunk
        os.close(ready)
        if said != b"R":
            os.waitpid(self.pid, 0)
            raise AssertionError(f"the shim did not start: {said.decode()}")

    def client(self, **options):
        return Client(self.path, **options)

    def alive(self):
        return os.waitpid(self.pid, os.WNOHANG) == (0, 0)

    def pss_kib(self):
        return int(re.search(r"^Pss:\s+(\d+)", open(f"/proc/{self.pid}/smaps_rollup").read(), re.M)[1])

    def descriptors(self):
        found = []
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            try:
                found.append(os.readlink(f"/proc/{self.pid}/fd/{fd}"))
            except FileNotFoundError:
                pass
        return sorted(found)

    def children(self):
        return [int(pid) for pid in open(f"/proc/{self.pid}/task/{self.pid}/children").read().split()]

    def stop(self):
        if self.stopped:
            return
        self.stopped = True
        try:
            client = self.client()
            client.send("shutdown")
            end = time.monotonic() + 12
            while self.alive_quietly() and time.monotonic() < end:
                time.sleep(0.01)
        except (OSError, Gone, AssertionError):
            pass
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.image)
        if self.own:
            subprocess.run(["rm", "-rf", self.path], check=True)

    def alive_quietly(self):
        try:
            return self.alive()
        except ChildProcessError:
            return False


def sealed(binary):
    memfd = os.memfd_create("caisson-shim", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(memfd, open(binary, "rb").read())
    fcntl.fcntl(memfd, F_ADD_SEALS, SEALS)
    os.fchmod(memfd, 0o755)
    return memfd


def wait_for(condition, timeout=10.0, what="condition"):
    end = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < end, f"{what}: not within {timeout} s"
        time.sleep(0.005)
    return result
