import unittest

from case import *


class Exec(ShimCase):
    def setUp(self):
        super().setUp()
        self.group = self.cgroup()
        self.client.create("c", init_plan("/bin/sleep", "1000"), cgroup=self.group, kill=[self.group])
        self.client.start("c")

    def test_output_and_exit_code(self):
        ended, output = self.client.exec_output("c", "e", "/bin/sh", "-c", "echo out; echo err >&2; exit 42")
        self.assertEqual((ended.id, ended.status, ended.timed_out, output), ("c", 42 << 8, 0, "out\nerr\n"))

    def test_it_is_born_in_the_containers_cgroup(self):
        _, output = self.client.exec_output("c", "e", "/bin/cat", "/proc/self/cgroup", cgroup=self.group)
        self.assertIn(f"0::{self.group.removeprefix(unified_root())}\n", output)

    def test_a_container_that_has_moved_below_its_cgroup_is_followed(self):
        # On v2 a cgroup that has enabled controllers for those below it takes no process of its own any more.
        below = os.path.join(self.group, "below")
        os.mkdir(below)
        controllers = open(f"{self.group}/cgroup.controllers").read().split()
        open(f"{below}/cgroup.procs", "w").write(str(self.client.states()["c"].pid))
        for controller in controllers:
            open(f"{self.group}/cgroup.subtree_control", "w").write(f"+{controller}")
        self.assertNotEqual(controllers, [], "this hierarchy has a controller to enable")
        ended, output = self.client.exec_output("c", "e", "/bin/cat", "/proc/self/cgroup", cgroup=self.group)
        self.assertEqual(ended.status, 0)
        self.assertIn(f"0::{below.removeprefix(unified_root())}\n", output)

    def test_a_failing_exec_says_where_and_why(self):
        read, write = os.pipe()
        failed = self.assert_fails(lambda: self.client.exec("c", "e", exec_plan("/no/such"), fds=(write, write)), 2)
        self.assertEqual(failed.op, 2)
        os.close(write)
        os.close(read)
        self.assertEqual([m for m in self.client.seen if m.name == "exec-exit"], [])

    def test_only_a_running_container_takes_an_exec(self):
        self.client.create("parked", init_plan("/bin/true"))
        for id, errno in (("parked", 0), ("nobody", 2)):
            self.assert_fails(lambda: self.client.exec(id, "e", exec_plan("/bin/true")), errno, "not running")
        self.client.kill("c")
        self.client.ended("c")
        self.assert_fails(lambda: self.client.exec("c", "e", exec_plan("/bin/true")), 0, "not running")

    def test_a_time_out_ends_the_whole_session(self):
        script = "sleep 4441 & (sleep 4442 & sleep 4443) & trap '' TERM; sleep 4444"
        began = time.monotonic()
        ended, _ = self.client.exec_output("c", "e", "/bin/sh", "-c", script, timeout=400, cgroup=self.group)
        self.assertEqual((ended.timed_out, ended.status), (1, 9))
        self.assertLess(time.monotonic() - began, 1)
        self.assertEqual(processes_with("sleep\x00444"), [])
        self.assertEqual(self.client.states()["c"].phase, 4)

    def test_a_time_out_ends_processes_that_keep_forking(self):
        forks = "f() { sleep 0.002; f & }; f & f & f & f & sleep 100"
        began = time.monotonic()
        ended, _ = self.client.exec_output("c", "e", "/bin/sh", "-c", forks, timeout=300, cgroup=self.group)
        self.assertEqual(ended.timed_out, 1)
        self.assertLess(time.monotonic() - began, 4)
        procs = open(f"{self.group}/cgroup.procs").read().split()
        self.assertEqual(procs, [str(self.client.states()["c"].pid)])

    def test_another_exec_and_the_container_are_not_touched_by_a_time_out(self):
        read, write = os.pipe()
        other = self.client.exec("c", "other", exec_plan("/bin/sleep", "1000"), fds=(write, write), cgroup=self.group)
        self.client.exec_output("c", "e", "/bin/sleep", "1000", timeout=400, cgroup=self.group)
        self.assertTrue(os.path.exists(f"/proc/{other.pid}"))
        self.client.ask("exec-kill", "c", "other", 15)
        self.assertEqual(self.client.event("exec-exit", exec_id="other").status, 15)
        os.close(read)
        os.close(write)

    def test_a_client_that_goes_away_takes_its_execs_along(self):
        other = self.shim.client()
        read, write = os.pipe()
        other.exec("c", "e", exec_plan("/bin/sh", "-c", "sleep 5551 & sleep 5552"), fds=(write, write), cgroup=self.group)
        os.close(write)
        wait_for(lambda: len(processes_with("sleep\x00555")) == 2)
        other.close()
        wait_for(lambda: processes_with("sleep\x00555") == [])
        self.assertEqual(os.read(read, 1), b"", "nobody holds the pipe any more")
        os.close(read)
        wait_for(lambda: len(self.shim.children()) == 1)

    def test_its_end_is_told_to_the_client_that_asked_only(self):
        other = self.shim.client()
        self.client.exec_output("c", "e", "/bin/true")
        other.states()
        self.assertEqual(other.seen, [])
        other.close()

    def test_an_exec_is_killed_with_its_session_on_demand(self):
        read, write = os.pipe()
        self.client.exec("c", "e", exec_plan("/bin/sh", "-c", "sleep 6661 & sleep 6662"), fds=(write, write), cgroup=self.group)
        self.client.ask("exec-kill", "c", "e", 9)
        self.assertEqual(self.client.event("exec-exit", exec_id="e").status, 9)
        wait_for(lambda: processes_with("sleep\x00666") == [])
        self.assert_fails(lambda: self.client.ask("exec-kill", "c", "e", 9), 3)
        os.close(read)
        os.close(write)

    def test_an_exec_session_of_its_own(self):
        _, output = self.client.exec_output("c", "e", "/bin/sh", "-c", "cut -d' ' -f1,5,6 /proc/$$/stat")
        pid, group, session = output.split()
        self.assertEqual((group, session), (pid, pid))


class WithoutCgroup(ShimCase):
    def test_a_time_out_finds_the_session_in_proc(self):
        self.client.run_container("c", "/bin/sleep", "1000")
        ended, _ = self.client.exec_output("c", "e", "/bin/sh", "-c", "sleep 3331 & sleep 3332", timeout=400)
        self.assertEqual(ended.timed_out, 1)
        self.assertEqual(processes_with("sleep\x00333"), [])


class Restricted(Exec):
    env = {"CAISSON_DENY_SYSCALLS": "clone3,clone_into_cgroup,cgroup_kill,close_range"}
    # The old way answers otherwise: the child itself is refused.
    test_a_container_that_has_moved_below_its_cgroup_is_followed = None


class SlowPredecessor(ShimCase):
    """The process that forks the command ends long after it, as in a cgroup that has used up its share."""

    @classmethod
    def setUpClass(cls):
        cls.binary = variant("lingering", "-DPREDECESSOR_LINGERS_MS=700")

    def test_the_end_of_a_quick_command_is_its_own(self):
        self.client.run_container("c", "/bin/sleep", "1000")
        for script, status in (("exit 3", 3 << 8), ("kill -9 $$", 9), ("exit 0", 0)):
            read, write = os.pipe()
            program = exec_plan("/bin/sh", "-c", f"echo told; {script}", before=(("fork",),))
            self.client.exec("c", f"e{status}", program, fds=(write, write))
            os.close(write)
            ended = self.client.event("exec-exit", exec_id=f"e{status}")
            self.assertEqual((ended.status, ended.timed_out, os.read(read, 100)), (status, 0, b"told\n"))
            os.close(read)

    def test_what_it_could_not_execute_is_told(self):
        self.client.run_container("c", "/bin/sleep", "1000")
        read, write = os.pipe()
        self.assert_fails(lambda: self.client.exec("c", "e", exec_plan("/no/such", before=(("fork",),)), fds=(write, write)), 2)
        os.close(write)
        os.close(read)


class Signals(ShimCase):
    def test_init_alone(self):
        log = self.log("c")
        self.client.run_container("c", "/bin/sh", "-c", "trap 'exit 33' TERM; echo trapped; while :; do sleep 0.02; done", log=log)
        wait_for(lambda: os.path.exists(log) and self.texts(log))
        self.client.kill("c", 15)
        self.assertEqual(self.client.ended("c").status, 33 << 8)
        self.assert_fails(lambda: self.client.kill("c", 15), 3)

    def test_numbers_that_are_no_signals_are_refused(self):
        self.client.run_container("c", "/bin/sleep", "100")
        for number, scope in ((0, 0), (65, 0), (9, 2)):
            self.assert_fails(lambda: self.client.kill("c", number, scope), 22)

    def whole(self, *paths, before=(), into=""):
        script = "mkdir -p /tmp; sleep 2221 & (setsid sleep 2222 &) ; sleep 2223"
        self.client.create("c", init_plan("/bin/sh", "-c", script, before=before), cgroup=into, kill=paths)
        self.client.start("c")
        wait_for(lambda: len(processes_with("sleep\x00222")) == 3)

    def test_everything_in_a_v2_cgroup(self):
        group = self.cgroup()
        self.whole(group, into=group)
        self.client.kill("c", 9, 1)
        self.assertEqual(processes_with("sleep\x00222"), [])
        self.client.ended("c")

    def test_everything_in_a_v1_freezer_also_below_it(self):
        group = self.cgroup("freezer")
        below = os.path.join(group, "below")
        os.mkdir(below)
        self.whole(group, before=in_cgroup(group))
        open(f"{below}/cgroup.procs", "w").write(str(processes_with("sleep\x002222")[0]))
        self.client.kill("c", 9, 1)
        self.assertEqual(processes_with("sleep\x00222"), [])
        self.assertEqual(open(f"{group}/freezer.state").read(), "THAWED\n")
        self.client.ended("c")

    def test_a_term_to_everybody(self):
        group = self.cgroup("freezer")
        self.whole(group, before=in_cgroup(group))
        self.client.kill("c", 15, 1)
        wait_for(lambda: processes_with("sleep\x00222") == [])
        self.assertEqual(self.client.ended("c").status, 15)
        self.assertEqual(open(f"{group}/freezer.state").read(), "THAWED\n")

    def test_a_kill_gets_through_to_what_somebody_has_frozen(self):
        freezer = self.cgroup("freezer")
        unified = self.cgroup()
        for scope in (0, 1):
            with self.subTest(scope=scope):
                id = f"c{scope}"
                self.client.create(id, init_plan("/bin/sleep", "1000", before=in_cgroup(freezer)), cgroup=unified, kill=[unified, freezer])
                self.client.start(id)
                open(f"{freezer}/freezer.state", "w").write("FROZEN")
                self.client.kill(id, 9, scope)
                self.assertEqual(self.client.ended(id, timeout=2).status, 9)

    def test_a_cgroup_that_holds_the_shim_is_never_killed(self):
        root = unified_root()
        own = next(line[3:] for line in open(f"/proc/{self.shim.pid}/cgroup").read().split("\n") if line.startswith("0::"))
        bystander = subprocess.Popen(["/bin/sleep", "1000"])
        self.addCleanup(lambda: (bystander.kill(), bystander.wait()))
        self.client.create("c", init_plan("/bin/sleep", "1000"), kill=[root + own])
        self.client.start("c")
        self.assert_fails(lambda: self.client.kill("c", 15, 1))
        self.assertEqual(self.client.states()["c"].phase, 4)
        # Its init is killed all the same, and nobody else.
        self.assert_fails(lambda: self.client.kill("c", 9, 1))
        self.assertEqual(self.client.ended("c").status, 9)
        self.assertTrue(self.shim.alive())
        self.assertIsNone(bystander.poll())


class Oom(ShimCase):
    def hungry(self):
        """What a container needs to be in a cgroup with little memory, on v1 or v2."""
        if os.path.isdir("/sys/fs/cgroup/memory"):
            group = self.cgroup("memory")
            open(f"{group}/memory.limit_in_bytes", "w").write("16777216")
            return dict(before=in_cgroup(group)), dict(oom=group)
        open(f"{unified_root()}/cgroup.subtree_control", "w").write("+memory")
        group = self.cgroup()
        open(f"{group}/memory.max", "w").write("16777216")
        return {}, dict(cgroup=group, oom=f"{group}/memory.events")

    def start(self, id, where, *argv):
        before, options = where
        self.client.create(id, init_plan(*argv, **before), **options)
        self.client.start(id)

    def test_an_init_that_is_killed_for_memory_says_so(self):
        self.start("c", self.hungry(), "/usr/bin/tail", "/dev/zero")
        ended = self.client.ended("c", timeout=20)
        self.assertEqual((ended.status, ended.oom_killed), (9, 1))
        self.assertIn("oom", [message.name for message in self.client.seen])

    def test_a_child_that_is_killed_is_an_event_and_no_verdict_on_init(self):
        self.start("c", self.hungry(), "/bin/sh", "-c", "tail /dev/zero; sleep 0.4; exit 3")
        self.assertEqual(self.client.event("oom", id="c", timeout=20).count, 1)
        ended = self.client.ended("c", timeout=20)
        self.assertEqual((ended.status, ended.oom_killed), (3 << 8, 0))

    def test_a_shell_that_passes_the_kill_of_its_child_on_is_oom_killed(self):
        self.start("c", self.hungry(), "/bin/sh", "-c", "tail /dev/zero; exit $?")
        ended = self.client.ended("c", timeout=20)
        self.assertEqual((ended.status, ended.oom_killed), (137 << 8, 1))

    def test_a_plain_kill_is_no_oom(self):
        self.start("c", self.hungry(), "/bin/sleep", "100")
        self.client.kill("c")
        self.assertEqual(self.client.ended("c").oom_killed, 0)

    def test_counts_of_before_are_not_held_against_it(self):
        where = self.hungry()
        self.start("first", where, "/usr/bin/tail", "/dev/zero")
        self.assertEqual(self.client.ended("first", timeout=20).oom_killed, 1)
        self.start("second", where, "/bin/sleep", "100")
        self.client.kill("second")
        self.assertEqual(self.client.ended("second").oom_killed, 0)


if __name__ == "__main__":
    unittest.main()
