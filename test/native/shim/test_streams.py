import termios, unittest

from case import *


class Attach(ShimCase):
    def attach(self, flags, *fds):
        self.client.ask("attach", "c", flags, fds=fds)
        for fd in fds:
            os.close(fd)

    def test_input_and_output_flow_and_are_logged(self):
        path = self.log()
        self.client.create("c", init_plan("/bin/sh", "-c", "while read x; do echo got $x; echo e$x >&2; done; echo end; exit 3", stdin=True), flags=STDIN | STDIN_ONCE, log=path)
        self.client.start("c")
        (in_read, in_write), (out_read, out_write), (err_read, err_write) = os.pipe(), os.pipe(), os.pipe()
        self.attach(7, in_read, out_write, err_write)
        os.write(in_write, b"a\nb\n")
        self.assertEqual(self.read_some(out_read, 12), b"got a\ngot b\n")
        self.assertEqual(self.read_some(err_read, 6), b"ea\neb\n")
        os.close(in_write)
        self.assertEqual(self.client.ended("c").status, 3 << 8)
        self.assertEqual(self.read_some(out_read, 99), b"end\n")
        self.assertEqual([t for s, _, t in self.texts(path) if s == "stdout"], [b"got a", b"got b", b"end"])
        os.close(out_read)
        os.close(err_read)

    def read_some(self, fd, size, timeout=5):
        """Up to `size` bytes, or until the end."""
        found, end = b"", time.monotonic() + timeout
        while len(found) < size and time.monotonic() < end:
            if select.select([fd], [], [], 0.1)[0]:
                chunk = os.read(fd, size - len(found))
                if not chunk:
                    break
                found += chunk
        return found

    def test_stdin_stays_open_over_attachments_unless_asked_otherwise(self):
        path = self.log()
        self.client.create("c", init_plan("/bin/cat", stdin=True), flags=STDIN, log=path)
        self.client.start("c")
        for word in (b"one\n", b"two\n"):
            read, write = os.pipe()
            wait_for(lambda: self.try_attach(read))
            os.write(write, word)
            os.close(write)
            wait_for(lambda: os.path.exists(path) and word.strip() in [t for _, _, t in self.texts(path)])
        self.assertEqual(self.client.states()["c"].phase, 4)

    def try_attach(self, fd):
        try:
            self.attach(1, os.dup(fd))
            os.close(fd)
            return True
        except Failed as failed:
            self.assertEqual(failed.errno, 16)
            return False

    def test_a_client_that_reads_slowly_gets_everything(self):
        path = self.log()
        self.client.create("c", init_plan("/bin/sh", "-c", "seq 1 1000000; seq 1 100000 >&2"), log=path)
        (out_read, out_write), (err_read, err_write) = os.pipe(), os.pipe()
        (idle_read, idle_write) = os.pipe()
        self.attach(6, out_write, err_write)
        self.attach(2, idle_write)
        os.close(idle_read)
        self.client.start("c")
        time.sleep(0.5)
        out, err = [], []
        while chunk := os.read(out_read, 20000):
            out.append(chunk)
        while chunk := os.read(err_read, 20000):
            err.append(chunk)
        self.assertEqual(b"".join(out), b"".join(b"%d\n" % i for i in range(1, 1000001)))
        self.assertEqual(b"".join(err), b"".join(b"%d\n" % i for i in range(1, 100001)))
        self.assertEqual([os.fstat(fd).st_mode & 0o777 for fd in (out_read, err_read)], [0o600, 0o600])
        ended = self.client.ended("c")
        self.assertEqual((ended.status, ended.log_dropped_bytes), (0, 0))
        self.assertEqual([int(text) for stream, _, text in self.texts(path) if stream == "stdout"], list(range(1, 1000001)))
        os.close(out_read)
        os.close(err_read)

    def test_a_client_that_does_not_read_is_cut_off_after_a_while_and_told(self):
        path = self.log()
        self.client.create("c", init_plan("/bin/sh", "-c", "head -c 6000000 /dev/zero | tr '\\0' x | fold -w 100; echo; exit 0"), log=path)
        read, write = os.pipe()
        self.attach(2, write)
        self.client.start("c")
        ended = self.client.ended("c")
        self.assertEqual((ended.status, ended.log_dropped_bytes), (0, 0))
        self.assertEqual(sum(len(text) for _, _, text in self.texts(path)), 6000000)
        found = 0
        while chunk := os.read(read, 1 << 20):
            found += len(chunk)
        self.assertGreater(found, 60000)
        self.assertLess(found, 6000000)
        self.assertEqual(os.fstat(read).st_mode & 0o777, 0)
        os.close(read)

    def test_places_of_clients_that_have_gone_are_free_again(self):
        self.client.create("c", init_plan("/bin/sleep", "100"))
        self.client.start("c")
        for _ in range(40):
            read, write = os.pipe()
            self.attach(2, write)
            os.close(read)
        kept = [os.pipe() for _ in range(16)]
        for _, write in kept:
            self.client.ask("attach", "c", 2, fds=(write,))
        read, write = os.pipe()
        self.assert_fails(lambda: self.client.ask("attach", "c", 2, fds=(write,)), 87)
        for fd in (read, write, *(fd for pair in kept for fd in pair)):
            os.close(fd)

    def test_input_beyond_what_the_container_takes_waits_in_the_clients_pipe(self):
        self.client.create("c", init_plan("/bin/sh", "-c", "sleep 0.5; cat | wc -c", stdin=True), flags=STDIN | STDIN_ONCE, log=self.log())
        self.client.start("c")
        read, write = os.pipe()
        self.attach(1, read)
        pid = os.fork()
        if pid == 0:
            for _ in range(40):
                os.write(write, b"x" * 50000)
            os._exit(0)
        os.close(write)
        self.client.ended("c")
        os.waitpid(pid, 0)
        self.assertEqual(self.texts(self.log()), [("stdout", "F", b"2000000")])

    def test_what_cannot_be_attached(self):
        self.client.create("c", init_plan("/bin/sleep", "100"))
        self.client.start("c")
        read, write = os.pipe()
        self.assert_fails(lambda: self.client.ask("attach", "c", 1, fds=(read,)), 32)
        self.assert_fails(lambda: self.client.ask("attach", "c", 3, fds=(read,)), 22)
        self.assert_fails(lambda: self.client.ask("attach", "nobody", 2, fds=(write,)), 2)
        self.client.kill("c")
        self.client.ended("c")
        self.assert_fails(lambda: self.client.ask("attach", "c", 2, fds=(write,)), 0)
        os.close(read)
        os.close(write)


class Terminal(ShimCase):
    def start(self, *argv):
        # The host's devpts serves as the container's.
        ops = plan(("clean-start",), ("open-host", 0, "/"), ("use-root", 0), ("console", 24, 80, 0, 0), ("park",), ("exec", argv[0], list(argv), ENV))
        self.client.create("c", ops, flags=TERMINAL | STDIN, log=self.log())
        self.client.start("c")

    def test_output_of_a_terminal_is_logged_as_stdout_with_its_carriage_returns(self):
        self.start("/bin/sh", "-c", "stty size; echo err >&2; tty >/dev/null && echo is a tty; exit 4")
        self.assertEqual(self.client.ended("c").status, 4 << 8)
        self.assertEqual(self.texts(self.log()), [("stdout", "F", b"24 80\r"), ("stdout", "F", b"err\r"), ("stdout", "F", b"is a tty\r")])

    def test_it_can_be_typed_into_and_resized(self):
        self.start("/bin/sh", "-c", "read x; echo $x; stty size; exit 0")
        self.client.ask("resize", "c", "", 50, 132)
        read, write = os.pipe()
        self.client.ask("attach", "c", 1, fds=(read,))
        os.close(read)
        os.write(write, b"typed\n")
        self.client.ended("c")
        os.close(write)
        self.assertEqual([text for _, _, text in self.texts(self.log())], [b"typed\r", b"typed\r", b"50 132\r"])

    def test_a_terminal_that_nobody_holds_for_a_moment_is_not_the_end(self):
        self.start("/bin/sh", "-c", "t=$(tty); exec </dev/null >/dev/null 2>&1; sleep 0.2; echo back >$t; sleep 0.1")
        self.client.ended("c")
        self.assertEqual(self.texts(self.log()), [("stdout", "F", b"back\r")])

    def test_what_has_no_terminal_cannot_be_resized(self):
        self.client.create("c", init_plan("/bin/sleep", "9"))
        self.assert_fails(lambda: self.client.ask("resize", "c", "", 1, 1), 25)


class Host(ShimCase):
    def spawn(self, *argv, env=(), cwd="", deadline=0, fds=()):
        return self.client.ask("spawn-host", list(argv), list(env), cwd, deadline, fds=fds).value

    def test_a_program_gets_its_arguments_environment_directory_and_descriptors(self):
        (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
        pid = self.spawn("/bin/sh", "-c", "cat; echo $0 $A $B; pwd; env | grep -c .; ls /proc/self/fd | wc -l", "zero", env=("A=1", "B=2"), cwd="/usr", fds=(in_read, out_write, out_write))
        os.write(in_write, b"input\n")
        for fd in (in_read, in_write, out_write):
            os.close(fd)
        ended = self.client.event("spawn-exit", pid=pid)
        self.assertEqual((ended.status, ended.timed_out), (0, 0))
        self.assertEqual(os.read(out_read, 4096).decode().split("\n")[:3], ["input", "zero 1 2", "/usr"])
        os.close(out_read)

    def test_its_signals_are_the_default_ones(self):
        read, write = os.pipe()
        null = os.open("/dev/null", os.O_RDONLY)
        pid = self.spawn("/bin/grep", "-E", "Sig(Blk|Ign)", "/proc/self/status", fds=(null, write))
        self.client.event("spawn-exit", pid=pid)
        for line in os.read(read, 4096).decode().splitlines():
            self.assertEqual(int(line.split()[1], 16), 0, line)
        for fd in (read, write, null):
            os.close(fd)

    def test_its_whole_group_ends_at_the_deadline(self):
        pid = self.spawn("/bin/sh", "-c", "sleep 8881 & (sleep 8882 &); sleep 8883", deadline=200)
        ended = self.client.event("spawn-exit", pid=pid)
        self.assertEqual((ended.status, ended.timed_out), (9, 1))
        wait_for(lambda: processes_with("sleep\x00888") == [])

    def test_it_ends_with_its_client(self):
        other = self.shim.client()
        other.ask("spawn-host", ["/bin/sleep", "8888"], [], "", 0)
        other.close()
        wait_for(lambda: processes_with("sleep\x008888") == [])

    def test_what_cannot_be_executed(self):
        failed = self.assert_fails(lambda: self.spawn("/no/such/program"), 2)
        self.assertEqual(failed.detail, "/no/such/program")
        self.assert_fails(lambda: self.spawn("relative"), 22)
        self.assert_fails(lambda: self.spawn("/bin/true", cwd="/no/such"), 2)
        self.assertEqual(self.shim.children(), [])


if __name__ == "__main__":
    unittest.main()
