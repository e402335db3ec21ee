import unittest

from case import *


class Life(ShimCase):
    def test_created_started_logged_exited_acknowledged_forgotten(self):
        path = self.log("deep/down/0.log")
        created = self.client.create("c", init_plan("/bin/sh", "-c", "echo out; echo err >&2; printf rest; exit 7"), log=path)
        self.assertFalse(os.path.exists(path), "the log is made at start")
        state = self.client.states()["c"]
        self.assertEqual((state.phase, state.pid, state.start_ticks), (2, created.pid, created.start_ticks))
        before = time.time_ns()
        started = self.client.start("c")
        self.assertTrue(before - 10**9 < started.at_ns < time.time_ns())
        ended = self.client.event("exit", id="c")
        self.assertEqual((ended.pid, ended.status, ended.started_at_ns, ended.oom_killed, ended.log_dropped_bytes),
                         (created.pid, 7 << 8, started.at_ns, 0, 0))
        self.assertTrue(started.at_ns <= ended.at_ns < time.time_ns())
        self.assertEqual(sorted(self.texts(path)), [("stderr", "F", b"err"), ("stdout", "F", b"out"), ("stdout", "P", b"rest")])
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o640)
        record = dict(line.split() for line in open(f"{self.shim.path}/exits/c"))
        self.assertEqual(record, dict(pid=str(ended.pid), status=str(7 << 8), atNs=str(ended.at_ns), startedAtNs=str(started.at_ns),
                                      oomKilled="0", logDroppedBytes="0"))
        self.assertEqual(self.client.states()["c"].phase, 5)
        self.client.ask("ack-exit", "c")
        self.client.ask("forget", "c")
        self.assertEqual(self.client.states(), {})
        self.assertEqual(os.listdir(f"{self.shim.path}/exits"), [])

    def test_an_exit_is_told_again_to_every_new_client_until_it_is_acknowledged(self):
        self.client.run_container("c", "/bin/true")
        first = self.client.event("exit", id="c")
        for _ in range(2):
            client = self.shim.client()
            self.assertEqual(client.event("exit", id="c").at_ns, first.at_ns)
            client.close()
        self.client.ask("ack-exit", "c")
        self.client.ask("ack-exit", "c")
        client = self.shim.client()
        client.states()
        self.assertEqual(client.seen, [])
        client.close()

    def test_everything_goes_on_while_no_client_is_there(self):
        path = self.log()
        self.client.run_container("c", "/bin/sh", "-c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.05; done; exit 9", log=path)
        self.client.close()
        wait_for(lambda: os.path.exists(f"{self.shim.path}/exits/c"))
        client = self.shim.client()
        self.assertEqual(client.event("exit", id="c").status, 9 << 8)
        self.assertEqual([text for _, _, text in self.texts(path)], [b"line %d" % i for i in range(1, 6)])
        client.close()

    def test_a_parked_init_holds_only_stdio_release_and_report(self):
        created = self.client.create("c", init_plan("/bin/sleep", "9"))
        links = [os.readlink(f"/proc/{created.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{created.pid}/fd")]
        self.assertEqual(len(links), 5, links)
        self.assertEqual(sorted(link.split(":")[0] for link in links), ["/dev/null", "pipe", "pipe", "pipe", "socket"])

    def test_a_program_gets_stdio_only_and_its_stdin_is_empty(self):
        path = self.log()
        self.client.run_container("c", "/bin/sh", "-c", "cat; for f in /proc/$$/fd/*; do echo ${f##*/}; done", log=path)
        self.client.ended("c")
        # The shell itself opens the directory for the pattern.
        self.assertEqual({text for _, _, text in self.texts(path)} - {b"3", b"10"}, {b"0", b"1", b"2"})

    def test_a_user_is_taken_in_spite_of_the_second_thread_of_the_shim(self):
        # libc's setuid would want to change all threads, which the child does not have.
        path = self.log()
        program = init_plan("/bin/grep", "-E", "^(Uid|Gid|Groups|CapEff)", "/proc/self/status", before=(("user", 1234, 2345, [3456]), ("caps", 0, 0, 0, 0)))
        self.client.create("c", program, log=path)
        self.client.start("c")
        self.assertEqual(self.client.ended("c").status, 0)
        found = {text.split()[0]: text.split()[1:] for _, _, text in self.texts(path)}
        self.assertEqual(found, {b"Uid:": [b"1234"] * 4, b"Gid:": [b"2345"] * 4, b"Groups:": [b"3456"], b"CapEff:": [b"0" * 16]})

    def test_children_get_the_descriptor_limit_that_the_shim_was_given(self):
        import resource

        given, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        lower = Shim(self.binary, soft_nofile=given // 2)
        self.addCleanup(lower.stop)
        client = lower.client()
        limits = next(line.split() for line in open(f"/proc/{lower.pid}/limits") if line.startswith("Max open files"))
        self.assertEqual((limits[3], limits[4]), (str(most), str(most)))
        client.run_container("c", "/bin/sh", "-c", "ulimit -n; sleep 100", log=f"{lower.path}/log")
        _, output = client.exec_output("c", "e", "/bin/sh", "-c", "ulimit -n")
        self.assertEqual(output, f"{given // 2}\n")
        wait_for(lambda: self.texts(f"{lower.path}/log") == [("stdout", "F", str(given // 2).encode())])

    def test_a_parked_init_that_dies_is_an_exit_without_start(self):
        created = self.client.create("c", init_plan("/bin/true"))
        os.kill(created.pid, 9)
        ended = self.client.ended("c")
        self.assertEqual((ended.status, ended.started_at_ns), (9, 0))
        self.assert_fails(lambda: self.client.start("c"), 0, "not waiting")
        self.client.ask("forget", "c")

    def test_a_parked_container_can_be_forgotten(self):
        created = self.client.create("c", init_plan("/bin/true"))
        self.client.ask("forget", "c")
        self.assertFalse(os.path.exists(f"/proc/{created.pid}"))
        self.assertEqual(os.listdir(f"{self.shim.path}/exits"), [])
        self.client.create("c", init_plan("/bin/true"))

    def test_a_command_that_is_not_there_fails_and_then_exits_unstarted(self):
        self.client.create("c", init_plan("/no/such/program"))
        failed = self.assert_fails(lambda: self.client.start("c"), 2)
        self.assertEqual(failed.op, 3)
        ended = self.client.ended("c")
        self.assertEqual((ended.status, ended.started_at_ns), (128 << 8, 0))

    def test_a_plan_that_fails_leaves_nothing(self):
        before = self.shim.descriptors()
        failed = self.assert_fails(lambda: self.client.create("c", init_plan("/bin/true", before=(("cwd", "/no/such/place", 0),))), 2)
        self.assertEqual(failed.op, 1)
        self.assertEqual(self.client.states(), {})
        self.assertEqual(os.listdir(f"{self.shim.path}/exits"), [])
        wait_for(lambda: len(self.shim.descriptors()) == len(before))
        self.client.create("c", init_plan("/bin/true"))

    def test_ids_and_plans_that_cannot_be_are_refused(self):
        for id in ("", "../x", "a/b", ".hidden", "x" * 129):
            self.assert_fails(lambda: self.client.create(id, init_plan("/bin/true")), 0)
        self.assert_fails(lambda: self.client.create("c", b"nonsense"), 74)
        self.assert_fails(lambda: self.client.create("c", plan(("clean-start",), ("exec", "/bin/true", ["true"], []))), 0, "must park")
        self.client.create("c", init_plan("/bin/true"))
        self.assert_fails(lambda: self.client.create("c", init_plan("/bin/true")), 17)
        for request in (("start", "x"), ("reopen-log", "x"), ("ack-exit", "x"), ("forget", "x"), ("signal", "x", 9, 0)):
            self.assert_fails(lambda: self.client.ask(*request), 2)

    def test_the_deadline_of_create_ends_a_plan_that_hangs(self):
        hanging = plan(("clean-start",), ("barrier", 1), ("park",), ("exec", "/bin/true", ["true"], []))
        request = self.client.send("create", "c", 0, 0, "", [], "", "", 0, 200, hanging)
        pid = self.client.event("barrier").pid
        with self.assertRaises(Failed) as caught:
            self.client.answer(request, "created")
        self.assertEqual(caught.exception.errno, 110)
        self.assertFalse(os.path.exists(f"/proc/{pid}"))
        self.assertEqual(self.client.states(), {})

    def test_barriers_hold_the_child_until_the_daemon_lets_it_go(self):
        stops = plan(("clean-start",), ("barrier", 1), ("barrier", 2), ("stdio", NO_SLOT, 1, 2), ("park",), ("exec", "/bin/true", ["true"], []))
        request = self.client.send("create", "c", 0, 0, "", [], "", "", 0, 5000, stops)
        for number in (1, 2):
            barrier = self.client.event("barrier", request=request)
            self.assertEqual(barrier.number, number)
            self.client.send("continue", 99, request=request)
            self.assertIsNone(self.client.receive(0.05))
            self.client.send("continue", number, request=request)
        self.assertEqual(self.client.answer(request, "created").pid, barrier.pid)

    def test_a_client_that_goes_away_before_created_takes_the_child_along(self):
        other = self.shim.client()
        hanging = plan(("clean-start",), ("barrier", 1), ("park",), ("exec", "/bin/true", ["true"], []))
        other.send("create", "c", 0, 0, "", [], "", "", 0, 0, hanging)
        pid = other.event("barrier").pid
        other.close()
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
        wait_for(lambda: self.client.states() == {})
        wait_for(lambda: os.listdir(f"{self.shim.path}/exits") == [])
        self.client.create("c", init_plan("/bin/true"))

    def test_a_create_can_be_given_up(self):
        hanging = plan(("clean-start",), ("barrier", 1), ("park",), ("exec", "/bin/true", ["true"], []))
        request = self.client.send("create", "c", 0, 0, "", [], "", "", 0, 0, hanging)
        self.client.event("barrier")
        self.client.ask("forget", "c")
        self.assertEqual(self.client.answer(request, "failed").errno, 125)
        self.assertEqual(self.client.states(), {})

    def test_a_client_that_goes_away_after_created_leaves_the_container(self):
        other = self.shim.client()
        other.create("c", init_plan("/bin/sleep", "100"))
        other.close()
        self.client.start("c")
        self.assertEqual(self.client.states()["c"].phase, 4)
        self.client.kill("c")
        self.client.ended("c")

    def test_orphans_are_reaped(self):
        self.client.run_container("c", "/bin/sh", "-c", "(sleep 0.2 & sleep 0.1 &) ; exit 0")
        self.client.ended("c")
        wait_for(lambda: self.shim.children() == [])

    def test_a_container_in_namespaces_of_its_own(self):
        path = self.log()
        program = plan(("clean-start",), ("new-ns", KIND["mnt"] | KIND["pid"] | KIND["uts"]), ("fork",), ("root-propagation", 0x4000 | 1 << 19),
                       ("hostname", "inside"), ("stdio", NO_SLOT, 1, 2), ("park",), ("exec", "/bin/sh", ["sh", "-c", "echo $$; uname -n; sleep 100 & exec sleep 100"], ENV))
        created = self.client.create("c", program, log=path)
        self.assertEqual(open(f"/proc/{created.pid}/stat").read().split()[3], str(self.shim.pid), "its parent is the shim")
        self.client.start("c")
        wait_for(lambda: len(self.texts(path)) == 2)
        self.assertEqual([text for _, _, text in self.texts(path)], [b"1", b"inside"])
        self.client.kill("c")
        self.assertEqual(self.client.ended("c", timeout=1.5).status, 9)

    def test_many_at_once(self):
        ids = [f"c{i}" for i in range(40)]
        requests = {id: self.client.send("create", id, 0, 0, "", [], "", self.log(id), 0, 9000, init_plan("/bin/sh", "-c", f"echo {id}; exit 3")) for id in ids}
        for id in ids:
            self.client.answer(requests[id], "created")
        requests = {id: self.client.send("start", id) for id in ids}
        for id in ids:
            self.client.answer(requests[id], "started")
        for id in ids:
            self.assertEqual(self.client.ended(id).status, 3 << 8)
            self.assertEqual(self.texts(self.log(id)), [("stdout", "F", id.encode())])
            self.client.ask("forget", id)

    def test_shutdown_ends_everything_and_the_shim(self):
        pids = [self.client.run_container(f"c{i}", "/bin/sh", "-c", "sleep 1000 & sleep 1001") for i in range(3)]
        parked = self.client.create("p", init_plan("/bin/true"))
        self.client.ask("shutdown")
        with self.assertRaises(Gone):
            self.client.receive()
        self.assertEqual(os.waitpid(self.shim.pid, 0)[1], 0)
        for pid in (*pids, parked.pid):
            self.assertFalse(os.path.exists(f"/proc/{pid}"))
        self.assertEqual(processes_with("sleep\x001001"), [])
        self.assertFalse(os.path.exists(f"{self.shim.path}/shim.sock"))


class Secrets(ShimCase):
    def memory_of(self, pid):
        found = b""
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in maps:
                if "[v" in line:
                    continue
                start, end = (int(number, 16) for number in line.split()[0].split("-"))
                memory.seek(start)
                try:
                    found += memory.read(end - start)
                except OSError:
                    pass
        return found

    def test_a_parked_init_holds_nothing_of_the_other_containers(self):
        self.client.create("first", init_plan("/bin/sleep", "100", env=["PATH=/bin", "TOKEN=secret-of-first"]), log=self.log("path-of-first"))
        path = self.log("path-of-talker")
        self.client.run_container("talker", "/bin/sh", "-c", "echo text-of-talker; printf unfinished-of-talker; sleep 100", log=path)
        wait_for(lambda: os.path.exists(path) and b"text-of-talker" in open(path, "rb").read())
        big = init_plan("/bin/sleep", "100", env=["PATH=/bin", "BIG=" + "secret-of-big " * 4000])
        self.client.create("big", big)
        created = self.client.create("last", init_plan("/bin/true", env=["TOKEN=own-secret"]))
        memory = self.memory_of(created.pid)
        self.assertIn(b"own-secret", memory, "the search finds what is there")
        for secret in (b"secret-of-first", b"secret-of-big", b"path-of-first", b"path-of-talker", b"text-of-talker", b"unfinished-of-talker"):
            self.assertNotIn(secret, memory)

    def test_the_shim_keeps_no_plan(self):
        self.client.create("c", init_plan("/bin/sleep", "100", env=["TOKEN=secret-of-c"]))
        self.assertNotIn(b"secret-of-c", self.memory_of(self.shim.pid))


class Hostile(ShimCase):
    """Somebody who may trace a forked child takes its report socket and writes what he likes."""

    def steal(self, pid, kind):
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        pidfd = os.pidfd_open(pid)
        for fd in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{fd}").startswith(kind):
                taken = libc.syscall(438, pidfd, int(fd), 0)
                os.close(pidfd)
                return socket.socket(fileno=taken)
        raise AssertionError(f"{pid} has no {kind}")

    def say(self, taken, type, number=0, pid=0, err=0, detail=b"", fd=None):
        packet = struct.pack("<IIiIi236s", type, 0, err, number, pid, detail)
        taken.sendmsg([packet], [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])

    FAILED, BARRIER, EXPORT, PIN, FORKED, PARKED, CONSOLE = range(1, 8)

    def test_before_it_is_parked_he_cannot_plant_descriptors_or_pids(self):
        other = self.client.run_container("other", "/bin/sleep", "1000")
        stops = plan(("clean-start",), ("barrier", 1), ("stdio", NO_SLOT, 1, 2), ("park",), ("exec", "/bin/sleep", ["sleep", "5"], []))
        request = self.client.send("create", "c", 0, 0, "", [], "", "", 0, 5000, stops)
        pid = self.client.event("barrier").pid
        taken = self.steal(pid, "socket:")
        uts = os.open("/proc/self/ns/uts", os.O_RDONLY)
        self.say(taken, self.PIN, 66, fd=uts)
        self.say(taken, self.EXPORT, fd=uts)
        self.say(taken, self.CONSOLE, fd=uts)
        self.say(taken, self.FORKED, pid=other)
        self.say(taken, 99)
        taken.send(b"short")
        self.client.send("continue", 1, request=request)
        created = self.client.answer(request, "created")
        self.assertEqual((created.pid, created.fds), (pid, []))
        self.assert_fails(lambda: self.client.create("d", init_plan("/bin/true", before=(("join-ns", 66, KIND["uts"]),))), 9)
        self.assertNotIn(os.readlink("/proc/self/ns/uts"), self.shim.descriptors())
        os.close(uts)

    def test_of_a_parked_init_only_a_failure_is_believed(self):
        created = self.client.create("c", init_plan("/bin/sleep", "1000"))
        taken = self.steal(created.pid, "socket:")
        for type in (self.BARRIER, self.EXPORT, self.PIN, self.FORKED, self.PARKED, self.CONSOLE):
            self.say(taken, type, 66, pid=1)
        self.client.states()
        self.assertEqual(self.client.seen, [])
        # He still holds the socket, which hides the execve: it is seen all the same.
        self.client.start("c")
        self.assertEqual(self.client.states()["c"].phase, 4)
        with self.assertRaises(BrokenPipeError):
            self.say(taken, self.FAILED, err=1, detail=b"too late")
        self.client.kill("c")
        self.assertEqual(self.client.ended("c").status, 9)

    def test_a_failure_that_he_invents_ends_the_container_and_nothing_else(self):
        created = self.client.create("c", init_plan("/bin/sleep", "1000"))
        taken = self.steal(created.pid, "socket:")
        self.say(taken, self.FAILED, err=13, detail=b"invented")
        ended = self.client.ended("c")
        self.assertEqual((ended.status, ended.started_at_ns), (9, 0))
        self.assert_works()


class Pins(ShimCase):
    def test_a_run_pins_and_exports_and_later_plans_use_the_pin(self):
        made = self.client.ask("run", 0, 5000, plan(("clean-start",), ("new-ns", KIND["uts"]), ("hostname", "pinned"), ("open-own-ns", 0, KIND["uts"]),
                                                    ("pin", 0, 66), ("export", 0)))
        self.assertEqual((made.value, len(made.fds)), (0, 1))
        path = self.log()
        self.client.create("c", init_plan("/bin/uname", "-n", before=(("join-ns", 66, KIND["uts"]),)), log=path)
        self.client.start("c")
        self.client.ended("c")
        self.assertEqual(self.texts(path), [("stdout", "F", b"pinned")])
        self.assertEqual(os.readlink(f"/proc/self/fd/{made.fds[0]}")[:4], "uts:")
        os.close(made.fds[0])

    def test_a_run_that_fails_pins_nothing(self):
        self.assert_fails(lambda: self.client.ask("run", 0, 5000, plan(("clean-start",), ("open-own-ns", 0, KIND["uts"]), ("pin", 0, 66), ("cwd", "/no/such", 0))), 2)
        self.assert_fails(lambda: self.client.create("c", init_plan("/bin/true", before=(("join-ns", 66, KIND["uts"]),))), 9)

    def test_a_run_ends_with_its_client_and_with_its_deadline(self):
        waits = plan(("clean-start",), ("barrier", 1))
        self.assert_fails(lambda: self.client.ask("run", 0, 100, waits), 110)
        other = self.shim.client()
        other.send("run", 0, 0, waits)
        pid = other.event("barrier").pid
        other.close()
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"))

    def test_the_reaper_of_a_pid_namespace(self):
        made = self.client.ask("run", 0, 5000, plan(("clean-start",), ("new-ns", KIND["pid"]), ("fork",), ("open-own-ns", 0, KIND["pid"]), ("pin", 0, 67), ("reaper",)))
        self.assertEqual(made.value, 0)
        reaper, = self.shim.children()
        self.assertEqual(open(f"/proc/{reaper}/cmdline").read(), "caisson-reaper\0")
        path = self.log()
        self.client.create("c", init_plan("/bin/sh", "-c", "echo $$", before=(("join-ns", 67, KIND["pid"]), ("fork",))), log=path)
        self.client.start("c")
        self.client.ended("c")
        self.assertNotEqual(self.texts(path)[0][2], b"1")
        self.assertLess(int(self.texts(path)[0][2]), 20)
        self.client.ask("shutdown")
        self.assertFalse(os.path.exists(f"/proc/{reaper}"))


class KillRest(ShimCase):
    def test_what_init_leaves_in_its_cgroup_is_killed(self):
        for name, group in (("v2", self.cgroup()), ("freezer", self.cgroup("freezer"))):
            with self.subTest(name):
                into, before = (group, ()) if name == "v2" else ("", in_cgroup(group))
                program = init_plan("/bin/sh", "-c", "sleep 7777 & exit 4", before=before)
                self.client.create(name, program, flags=KILL_REST, cgroup=into, kill=[group])
                self.client.start(name)
                self.assertEqual(self.client.ended(name, timeout=1.5).status, 4 << 8)
                self.assertEqual(processes_with("sleep\x007777"), [])


class Fallbacks(KillRest):
    env = {"CAISSON_DENY_SYSCALLS": "clone3,clone_into_cgroup,cgroup_kill,close_range,openat2"}

    def test_a_restricted_shim_says_so_and_works(self):
        self.assertEqual(self.client.hello.features, 1)
        self.assert_works()

    def test_the_child_puts_itself_into_the_cgroup(self):
        group = self.cgroup()
        path = self.log()
        self.client.create("c", init_plan("/bin/cat", "/proc/self/cgroup"), cgroup=group, log=path)
        self.client.start("c")
        self.client.ended("c")
        self.assertIn(f"0::{group.removeprefix(unified_root())}".encode(), [text for _, _, text in self.texts(path)])


if __name__ == "__main__":
    unittest.main()
